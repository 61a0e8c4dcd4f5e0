"""The small character-level BERT that every shipped model is built on, in plain torch.

Post-layer-norm encoder: word, position and type embeddings, then `layers` blocks of self-attention and a GELU
feed-forward. It is written so that the ONNX export holds only constant MatMuls and Gathers where weights are, which
is what `onnx_int8` rewrites. Padding never changes the result of a real token: masked keys get no attention weight.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

MASKED_SCORE = -1e4


@dataclass(frozen=True)
class EncoderShape:
    """The sizes of an encoder; equal shapes have interchangeable weights."""

    vocabulary: int
    hidden: int = 160
    layers: int = 3
    heads: int = 4
    ffn: int = 640
    max_length: int = 128
    dropout: float = 0.1


class Attention(nn.Module):
    """Multi-head self-attention with an additive mask."""

    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()
        if shape.hidden % shape.heads:
            raise ValueError(f"hidden {shape.hidden} is not a multiple of heads {shape.heads}")
        self.heads = shape.heads
        self.width = shape.hidden // shape.heads
        self.query = nn.Linear(shape.hidden, shape.hidden)
        self.key = nn.Linear(shape.hidden, shape.hidden)
        self.value = nn.Linear(shape.hidden, shape.hidden)
        self.output = nn.Linear(shape.hidden, shape.hidden)
        self.dropout = nn.Dropout(shape.dropout)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        batch, length, hidden = states.shape
        split = (batch, length, self.heads, self.width)
        query = self.query(states).view(split).transpose(1, 2)
        key = self.key(states).view(split).permute(0, 2, 3, 1)
        value = self.value(states).view(split).transpose(1, 2)
        scores = torch.matmul(query, key) * self.width**-0.5 + mask
        weights = self.dropout(torch.softmax(scores, dim=-1))
        mixed = torch.matmul(weights, value).transpose(1, 2).reshape(batch, length, hidden)
        return self.output(mixed)


class Block(nn.Module):
    """One post-layer-norm transformer layer."""

    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()
        self.attention = Attention(shape)
        self.attention_norm = nn.LayerNorm(shape.hidden, eps=1e-6)
        self.inner = nn.Linear(shape.hidden, shape.ffn)
        self.outer = nn.Linear(shape.ffn, shape.hidden)
        self.ffn_norm = nn.LayerNorm(shape.hidden, eps=1e-6)
        self.dropout = nn.Dropout(shape.dropout)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        states = self.attention_norm(states + self.dropout(self.attention(states, mask)))
        inner = nn.functional.gelu(self.inner(states))
        return self.ffn_norm(states + self.dropout(self.outer(inner)))


class CharEncoder(nn.Module):
    """int64 [batch, length] ids, mask and types -> float32 [batch, length, hidden] states."""

    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()
        self.shape = shape
        self.word = nn.Embedding(shape.vocabulary, shape.hidden)
        self.position = nn.Embedding(shape.max_length, shape.hidden)
        self.segment = nn.Embedding(2, shape.hidden)
        self.norm = nn.LayerNorm(shape.hidden, eps=1e-6)
        self.dropout = nn.Dropout(shape.dropout)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.apply(_initialise)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        embedded = self.word(input_ids) + self.position(places).unsqueeze(0) + self.segment(token_type_ids)
        states = self.dropout(self.norm(embedded))
        mask = (1.0 - attention_mask[:, None, None, :].to(states.dtype)) * MASKED_SCORE
        for block in self.blocks:
            states = block(states, mask)
        return states


def mean_over_tokens(states: Tensor, attention_mask: Tensor) -> Tensor:
    """The average of the real tokens' states, [batch, hidden]."""
    mask = attention_mask.unsqueeze(-1).to(states.dtype)
    return (states * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1.0)


def count_parameters(module: nn.Module) -> int:
    """How many trainable numbers a module holds."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def round_to_fp16(module: nn.Module) -> None:
    """Round every weight in place to what fp16 storage keeps, so that what is scored is what is shipped."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(parameter.to(torch.float16).to(torch.float32))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.03)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=0.03)
