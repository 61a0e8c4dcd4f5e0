"""What all encoders have in common: three inputs of token ids, free rows and length, a vocabulary and a longest text."""

import inspect
from typing import Any

import torch
from tokenizers import Tokenizer

from cloud_core.importer.opened import Traced
from cloud_core.importer.tokenizer import TokenizerFile
from shared.protocol.errors import Refusal, Refused

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_TRACED = (2, 9)
_CHECKED = ((1, 2), (1, 9), (3, 17), (2, 128), (2, 512))
_FIRST = 5
"""Of the ids that are tried: special tokens lie below it in most vocabularies."""
_IDS = 100


class Logits(torch.nn.Module):
    """ids, mask and types int64 [rows, longest] to the `logits` of a model with a head, per text or per token."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self._typed = "token_type_ids" in inspect.signature(model.forward).parameters

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> torch.Tensor:
        """What the graph computes."""
        more = {"token_type_ids": types} if self._typed else {}
        # `forward`, not the call: that of a tagger decodes its chain, which is not part of the graph.
        logits: torch.Tensor = self.model.forward(input_ids=ids, attention_mask=mask, **more)["logits"]
        return logits


def traced(module: torch.nn.Module, output: str, *, per_token: bool) -> Traced:
    """An encoder for the exporter; its output has one row per text, or one per token of it."""
    positions, words, axes = _positions(module), _words(module), {0: "batch", 1: "sequence"}
    sizes = [(rows, length if positions is None else min(length, positions)) for rows, length in _CHECKED]
    return Traced(
        module=module.eval(),
        example=_padded(*_TRACED, words),
        inputs=INPUTS,
        outputs=(output,),
        dynamic=dict.fromkeys(INPUTS, axes) | {output: axes if per_token else {0: "batch"}},
        checks=tuple(_padded(rows, length, words) for rows, length in sizes),
    )


def _padded(rows: int, length: int, words: int | None) -> tuple[torch.Tensor, ...]:
    """Ids, mask and types int64 [rows, length]; every row but the first is shorter than the one before it."""
    ids = _FIRST + torch.arange(rows * length).reshape(rows, length) * 7 % _IDS
    if words is not None:
        ids %= words
    mask = torch.ones_like(ids)
    for row in range(1, rows):
        mask[row, max(2, length * (rows - row) // (rows + 1)) :] = 0
    return ids * mask, mask, torch.zeros_like(ids)


def width(made: Traced) -> int:
    """The last dimension of the output."""
    with torch.no_grad():
        return int(made.module(*made.example).shape[-1])


def longest(wanted: int | None, model: torch.nn.Module) -> int:
    """Tokens a text may have: what the pipeline cuts at, and never more than the model has positions for.

    Raises:
        Refused: fewer than a text needs.

    """
    limit = min(value for value in (wanted, _positions(model), 1_000_000) if value is not None)
    if limit < 3:
        raise Refused("texts of no length", kind=Refusal.UNPROCESSABLE, field="max_length", value=limit, allowed=">= 3")
    return limit


def check_vocabulary(file: TokenizerFile, model: torch.nn.Module) -> None:
    """Refuse a vocabulary with words the model has no vector for."""
    rows = _words(model)
    if rows is not None and file.tokens > rows:
        raise Refused(
            "the vocabulary has more tokens than the model",
            kind=Refusal.UNPROCESSABLE,
            field="tokenizer",
            value=file.tokens,
            allowed=f"at most {rows}",
        )


def check_tokenizer(file: TokenizerFile, model: torch.nn.Module) -> None:
    """Hold a tokenizer to what the engine takes for granted of an encoder's.

    Raises:
        Refused: as `check_vocabulary`, or it puts something else around a text than one token at each end.

    """
    check_vocabulary(file, model)
    marks = Tokenizer.from_str(file.data.decode()).encode("a").special_tokens_mask
    if len(marks) < 3 or (marks[0], marks[-1]) != (1, 1) or any(marks[1:-1]):
        raise Refused(
            "a text is not put between two special tokens",
            kind=Refusal.UNSUPPORTED,
            field="tokenizer",
            value=marks,
            allowed="one token before a text and one behind it",
        )


def _words(model: torch.nn.Module) -> int | None:
    return next((len(value) for name, value in _weights(model) if name.endswith("word_embeddings.weight")), None)


def _positions(model: torch.nn.Module) -> int | None:
    for name, value in _weights(model):
        if name.endswith("position_embeddings.weight"):
            owner = model.get_submodule(name.removesuffix(".weight"))
            # RoBERTa counts positions from behind its padding token.
            padding = getattr(owner, "padding_idx", None)
            return len(value) - (0 if padding is None else int(padding) + 1)
    return None


def _weights(model: torch.nn.Module) -> list[tuple[str, Any]]:
    return list(model.named_parameters(remove_duplicate=False))
