"""The encoder of `encoder_weights` as a torch module, written as one would by hand; imported only where torch is."""

from typing import Any

import torch
from torch.nn import functional

from bench.encoder_weights import EPSILON, Shape, Weights


class TorchEncoder(torch.nn.Module):
    """Ids, mask and types, all int64 [rows, tokens], to logits [rows, labels]."""

    def __init__(self, shape: Shape, known: Weights) -> None:
        super().__init__()
        self.shape = shape
        for name, value in known.items():
            # Dots part the names of modules.
            self.register_parameter(
                name.replace(".", "_"), torch.nn.Parameter(torch.from_numpy(value), requires_grad=False)
            )

    def forward(self, ids: Any, mask: Any, types: Any) -> Any:
        rows, tokens = ids.shape
        embeddings = "bert.embeddings"
        hidden = self._of(f"{embeddings}.word_embeddings.weight")[ids]
        hidden = hidden + self._of(f"{embeddings}.position_embeddings.weight")[:tokens]
        hidden = self._norm(
            f"{embeddings}.LayerNorm", hidden + self._of(f"{embeddings}.token_type_embeddings.weight")[types]
        )
        seen = mask[:, None, None, :] > 0
        for i in range(self.shape.layers):
            layer = f"bert.encoder.layer.{i}"
            query, key, value = (
                self._linear(f"{layer}.attention.self.{name}", hidden)
                .view(rows, tokens, self.shape.heads, -1)
                .transpose(1, 2)
                for name in ("query", "key", "value")
            )
            found = functional.scaled_dot_product_attention(query, key, value, attn_mask=seen)
            found = self._linear(f"{layer}.attention.output.dense", found.transpose(1, 2).reshape(rows, tokens, -1))
            hidden = self._norm(f"{layer}.attention.output.LayerNorm", hidden + found)
            inner = functional.gelu(self._linear(f"{layer}.intermediate.dense", hidden))
            hidden = self._norm(f"{layer}.output.LayerNorm", hidden + self._linear(f"{layer}.output.dense", inner))
        return self._linear("classifier", torch.tanh(self._linear("bert.pooler.dense", hidden[:, 0])))

    def _of(self, name: str) -> Any:
        return getattr(self, name.replace(".", "_"))

    def _linear(self, name: str, value: Any) -> Any:
        return functional.linear(value, self._of(f"{name}.weight"), self._of(f"{name}.bias"))

    def _norm(self, name: str, value: Any) -> Any:
        return functional.layer_norm(
            value, (self.shape.hidden,), self._of(f"{name}.weight"), self._of(f"{name}.bias"), EPSILON
        )
