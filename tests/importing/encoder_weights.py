"""Seeded weights of a BERT encoder, scaled so that scores spread, and a tagger's head with wide margins."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cloud_core.importer.probes import PROBES

Weights = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of a BERT encoder."""

    vocabulary: int
    hidden: int = 64
    layers: int = 2
    heads: int = 4
    inner: int = 128
    positions: int = 512

    def config(self, **more: Any) -> dict[str, Any]:
        """The fields of `config.json`."""
        return {
            "vocab_size": self.vocabulary,
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "intermediate_size": self.inner,
            "max_position_embeddings": self.positions,
            "type_vocab_size": 2,
            "hidden_act": "gelu",
            "hidden_dropout_prob": 0.1,
            "attention_probs_dropout_prob": 0.1,
            "initializer_range": 0.02,
            "layer_norm_eps": 1e-12,
            "pad_token_id": 0,
            **more,
        }


class Drawn:
    """Seeded random tensors."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(shape, generator=self._generator) * scale

    def linear(self, name: str, inputs: int, outputs: int, *, gain: float = 1.0) -> Weights:
        return {
            f"{name}.weight": self.normal(outputs, inputs, scale=gain / inputs**0.5),
            f"{name}.bias": self.normal(outputs, scale=0.1),
        }

    def norm(self, name: str, size: int) -> Weights:
        return {f"{name}.weight": 1 + self.normal(size, scale=0.1), f"{name}.bias": self.normal(size, scale=0.1)}


def bert(shape: Shape, drawn: Drawn, *, prefix: str = "", pooler: bool = True) -> Weights:
    """The weights of a BertModel, each key after `prefix`."""
    hidden = shape.hidden
    weights: Weights = {
        "embeddings.word_embeddings.weight": drawn.normal(shape.vocabulary, hidden),
        "embeddings.position_embeddings.weight": drawn.normal(shape.positions, hidden, scale=0.5),
        "embeddings.token_type_embeddings.weight": drawn.normal(2, hidden, scale=0.5),
        **drawn.norm("embeddings.LayerNorm", hidden),
    }
    for layer in range(shape.layers):
        at = f"encoder.layer.{layer}"
        for part in ("query", "key", "value"):
            weights |= drawn.linear(f"{at}.attention.self.{part}", hidden, hidden, gain=1.5)
        weights |= drawn.linear(f"{at}.attention.output.dense", hidden, hidden)
        weights |= drawn.norm(f"{at}.attention.output.LayerNorm", hidden)
        weights |= drawn.linear(f"{at}.intermediate.dense", hidden, shape.inner)
        weights |= drawn.linear(f"{at}.output.dense", shape.inner, hidden)
        weights |= drawn.norm(f"{at}.output.LayerNorm", hidden)
    if pooler:
        weights |= drawn.linear("pooler.dense", hidden, hidden, gain=1.5)
    return {f"{prefix}{name}": value for name, value in weights.items()}


def told_apart(weights: Weights, shape: Shape, drawn: Drawn, name: str, *, prefix: str, classes: int) -> Weights:
    """A linear head `name` that a tagger might have learnt: every token of the vocabulary has a class, and wide margins.

    Narrower arithmetic moves scores a little; where two tags are as good as each other it would tell entities apart by chance.
    The word embeddings in `weights` are drawn around one centre per class, and the head is fitted to what becomes of them.
    """
    from transformers import BertConfig, BertModel

    table = f"{prefix}embeddings.word_embeddings.weight"
    kinds = (drawn.normal(shape.vocabulary).abs() * 1000).long() % (2 * classes)
    kinds[kinds >= classes] = 0
    weights[table] = weights[table] * 0.5 + drawn.normal(classes, shape.hidden, scale=2.0)[kinds]
    model = BertModel(BertConfig(**shape.config()), add_pooling_layer=False).eval()
    model.load_state_dict({key.removeprefix(prefix): value for key, value in weights.items()}, strict=False)
    ids = (drawn.normal(256, 24).abs() * 1e6).long() % shape.vocabulary
    with torch.no_grad():
        states = model(ids).last_hidden_state.reshape(-1, shape.hidden)
    wanted = 8.0 * torch.nn.functional.one_hot(kinds[ids.flatten()], classes).float()
    full = torch.cat((states, torch.ones(len(states), 1)), dim=1)
    fitted = torch.linalg.lstsq(full, wanted).solution
    return {f"{name}.weight": fitted[:-1].t().contiguous(), f"{name}.bias": fitted[-1].contiguous()}


def texts_told_apart(
    weights: Weights, shape: Shape, drawn: Drawn, name: str, *, prefix: str, classes: int, tokens: Sequence[str]
) -> Weights:
    """A classifier `name` with wide margins on the importer's probes, as one has that was trained on texts of their kind."""
    from transformers import BertConfig, BertModel

    ids = {token: place for place, token in enumerate(tokens)}
    model = BertModel(BertConfig(**shape.config())).eval()
    model.load_state_dict({key.removeprefix(prefix): value for key, value in weights.items()}, strict=False)
    read = [
        [ids["[CLS]"], *(ids.get(c, ids["[UNK]"]) for c in text.lower()[:500] if c.strip()), ids["[SEP]"]]
        for text in PROBES
    ]
    with torch.no_grad():
        pooled = torch.cat([model(torch.tensor([each])).pooler_output for each in read])
    kinds = ((pooled - pooled.mean(0)) @ drawn.normal(shape.hidden, classes)).argmax(1)
    wanted = 8.0 * torch.nn.functional.one_hot(kinds, classes).float()
    full = torch.cat((pooled, torch.ones(len(pooled), 1)), dim=1)
    # Bounded weights: what fits the probes to the last digit would make much of rounding.
    fitted = torch.linalg.solve(full.t() @ full + 0.05 * torch.eye(full.shape[1]), full.t() @ wanted)
    return {f"{name}.weight": fitted[:-1].t().contiguous(), f"{name}.bias": fitted[-1].contiguous()}
