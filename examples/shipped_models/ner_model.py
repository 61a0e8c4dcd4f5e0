"""The NER tagger: the shared character encoder, a view of both neighbours, and a linear layer to emissions.

The neighbour view adds a projection of the characters left and right to each embedding before the first block. Three
small layers do not have to spend attention on finding their neighbours then. Padding is zeroed before it, so the last
real token sees the same in any batch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from examples.shipped_models.crf import TAGS, Crf
from examples.shipped_models.encoder import MASKED_SCORE, CharEncoder, EncoderShape


class NerTagger(nn.Module):
    """int64 [batch, length] ids, mask and types -> float32 emissions [batch, length, tags]."""

    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()
        self.encoder = CharEncoder(shape)
        self.neighbours = nn.Linear(2 * shape.hidden, shape.hidden)
        nn.init.normal_(self.neighbours.weight, std=0.03)
        nn.init.zeros_(self.neighbours.bias)
        self.head = nn.Linear(shape.hidden, len(TAGS))
        self.crf = Crf()
        self.first_position = 0  # training shifts it, so that late positions are trained by short sentences too

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        """Emissions."""
        return self.head(self.states(input_ids, attention_mask, token_type_ids))

    def states(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        """The last layer's states, which training also reads with a second head."""
        encoder = self.encoder
        real = attention_mask.unsqueeze(-1).to(torch.float32)
        words = encoder.word(input_ids) * real
        edge = torch.zeros_like(words[:, :1])
        left = torch.cat([edge, words[:, :-1]], dim=1)
        right = torch.cat([words[:, 1:], edge], dim=1)
        places = torch.arange(input_ids.shape[1], device=input_ids.device) + self.first_position
        states = words + self.neighbours(torch.cat([left, right], dim=-1))
        states = states + encoder.position(places).unsqueeze(0) + encoder.segment(token_type_ids)
        states = encoder.dropout(encoder.norm(states))
        mask = (1.0 - attention_mask[:, None, None, :].to(torch.float32)) * MASKED_SCORE
        for block in encoder.blocks:
            states = block(states, mask)
        return states
