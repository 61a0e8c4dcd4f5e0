"""SiameseUIE: extraction by hints, as ModelScope's `siamese-uie` pipeline does it, in one graph.

Text and hint go through the lower layers apart and through the upper six together; two heads say of every token of the text
whether it begins or ends what the hint asks for. Graph: windows of texts and hints come in once each, `row_window` and
`row_hint` pair them; `hint_start` is the position of a hint's first token, the length of the window it is asked of.
"""

import contextlib
import io
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from modelscope.pipelines import pipeline
from torch import Tensor

from cloud_core.importer.architectures.encoder_graph import check_vocabulary
from cloud_core.importer.architectures.modelscope_pipeline import opening
from cloud_core.importer.opened import Expect, Opened, Traced
from cloud_core.importer.tokenizer import FILE, tokenizer_file
from shared.bundle.manifest import Extraction, Processing, TaskKind, TensorSpec
from shared.protocol.errors import Refusal, Refused
from shared.serving.tasks.extraction_schema import DEFAULT, Schema, parse_schema
from shared.serving.tasks.extraction_search import Hop, hops
from shared.serving.tasks.hinted_rows import HEADS, INPUTS, TAILS

ARCHITECTURE = "siamese-uie"
WINDOW, STRIDE, HINT_LENGTH = 384, 352, 128
"""The pipeline's own; its positions reach to the sum of window and hint."""
THRESHOLD = 0.6224593312018546
"""The pipeline compares what the heads give, before any sigmoid, with 0.5: this is 0.5 as a probability."""
JOINT_LAYERS = 6
_NOTES = """\
Answers are those of ModelScope's `siamese-uie` pipeline, and besides: texts may come in batches; every answer has a score, the
probability of its beginning and end along the whole path; a span of nothing but a special token is no answer, and one span is
given once; a hint of more than 128 tokens keeps its end, which says what is asked for; a text is read once per level of the
schema. Where a request names no `parameters.schema`, that of the bundle is looked for.
"""


class SiameseUie(torch.nn.Module):
    """The model's own parts in the order of its `fast_inference`, with each window and each hint read once."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(  # noqa: PLR0917 - a traced module takes its inputs by place
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        hint_ids: Tensor,
        hint_mask: Tensor,
        hint_start: Tensor,
        row_window: Tensor,
        row_hint: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Logits of beginning and of ending, each [rows, longest window]."""
        texts = self.model.get_plm_sequence_output(input_ids, attention_mask)
        positions = hint_start.unsqueeze(1) + torch.arange(hint_ids.size(1), device=hint_ids.device).unsqueeze(0)
        hints = self.model.get_plm_sequence_output(hint_ids, hint_mask, positions, is_hint=True)
        joint = self.model.get_cross_attention_output(
            texts[row_window], attention_mask[row_window], hints[row_hint], hint_mask[row_hint]
        )
        return self.model.head_clsf(joint).squeeze(-1), self.model.tail_clsf(joint).squeeze(-1)


def open_siamese_uie(folder: Path, schema: str | None) -> Opened:
    """A folder in the hub's form. `schema`: what is looked for where a request names nothing, JSON text.

    Raises:
        Refused: a schema that is none, or a configuration whose sizes the pipeline cannot run.

    """
    looked_for = parse_schema(DEFAULT if schema is None else schema, field="schema")
    source = _pipeline(folder)
    _check_sizes(source.model.config)
    module = SiameseUie(source.model).eval()
    file = tokenizer_file(source.preprocessor.tokenizer)
    check_vocabulary(file, module)
    return Opened(
        architecture=ARCHITECTURE,
        task=TaskKind.RELATION_EXTRACTION,
        processing=Processing(
            tokenizer=FILE,
            max_length=WINDOW,
            lowercase=file.lowercase,
            extraction=Extraction(
                hint_length=HINT_LENGTH,
                window=WINDOW,
                stride=STRIDE,
                threshold=THRESHOLD,
                schema=msgspec.json.encode(looked_for).decode(),
            ),
        ),
        inputs=(TensorSpec(name="text", datatype="BYTES", shape=(-1,)),),
        outputs=(TensorSpec(name="relations", datatype="BYTES", shape=(-1,)),),
        traced=Traced(
            module=module,
            example=_example(windows=2, length=5, hints=3, hint=3, rows=4),
            inputs=INPUTS,
            outputs=(HEADS, TAILS),
            dynamic={
                "input_ids": {0: "windows", 1: "sequence"},
                "attention_mask": {0: "windows", 1: "sequence"},
                "hint_ids": {0: "hints", 1: "hint"},
                "hint_mask": {0: "hints", 1: "hint"},
                "hint_start": {0: "hints"},
                "row_window": {0: "rows"},
                "row_hint": {0: "rows"},
                HEADS: {0: "rows", 1: "sequence"},
                TAILS: {0: "rows", 1: "sequence"},
            },
            checks=(
                _example(windows=1, length=2, hints=1, hint=3, rows=1),
                _example(windows=3, length=17, hints=2, hint=9, rows=5),
                _example(windows=2, length=WINDOW, hints=2, hint=HINT_LENGTH, rows=3),
            ),
        ),
        reference=lambda texts: [relations_of(source, text, looked_for) for text in texts],
        files={FILE: file.data},
        notes=_NOTES,
    )


def relations_of(source: Any, text: str, schema: Schema) -> Expect:
    """What the pipeline finds, as the golden set says it; None where it cannot answer, or asks something else than it means.

    It gives no scores: they are taken from the numbers it compares. A span it names twice, or one that ends before it begins
    (it takes [CLS] and [SEP] for places of the text), is no answer.
    """
    cut = False
    own_hops, own_hints = source.get_entities, source.tokenize_sample

    def scored(text: str, offsets: Sequence[tuple[int, int]], heads: list[float], tails: list[float]) -> list[Any]:
        known = {hop[1:3]: hop.score for hop in _hops(offsets, heads, tails, source.threshold)}
        found: list[Any] = []
        for entity in own_hops(text, offsets, heads, tails):
            place = tuple(entity["offset"])
            # What is asked further of a span that is none, or asked twice, leads nowhere.
            if place in known:
                found.append(entity | {"offset": _Scored(place, known.pop(place))})
        return found

    def seen(text: str, tokenized: Any, hints: list[str]) -> Any:
        nonlocal cut
        # A hint beyond the limit loses its end, and with it what is asked for.
        cut = cut or any(len(source.preprocessor([hint])[0].ids) > HINT_LENGTH for hint in hints)
        return own_hints(text, tokenized, hints)

    source.get_entities, source.tokenize_sample = scored, seen
    try:
        with _quiet():
            paths = source(text, schema=dict(schema))["output"]
    except (RuntimeError, ValueError, IndexError, TypeError):
        return None
    finally:
        del source.get_entities, source.tokenize_sample
    return None if cut else {"relations": [_relation(path) for path in paths]}


class _Scored(list[int]):
    """An offset pair that carries its score through the pipeline, which copies it and knows no scores."""

    def __init__(self, place: Sequence[int] = (), score: float = 0.0) -> None:
        super().__init__(place)
        self.score = score


def _hops(
    offsets: Sequence[tuple[int, int]], heads: Sequence[float], tails: Sequence[float], threshold: float
) -> list[Hop]:
    return hops("", offsets, np.asarray(heads), np.asarray(tails), threshold=threshold)


def _relation(path: Sequence[Mapping[str, Any]]) -> dict[str, object]:
    last, subject = path[-1], path[-2] if len(path) > 1 else None
    return {
        "type": last["type"],
        "subject": subject["span"] if subject else None,
        "object": last["span"],
        "score": math.prod(hop["offset"].score for hop in path),
        "subject_start": subject["offset"][0] if subject else None,
        "object_start": last["offset"][0],
        "object_end": last["offset"][1],
    }


def _pipeline(folder: Path) -> Any:
    with opening(), _quiet():
        return pipeline("siamese-uie", model=str(folder), device="cpu")


def _example(*, windows: int, length: int, hints: int, hint: int, rows: int) -> tuple[Tensor, ...]:
    """Inputs of those sizes; the last window and the last hint are shorter than the others."""
    ids, mask = _padded(windows, length)
    hint_ids, hint_mask = _padded(hints, hint)
    numbers = torch.arange(rows)
    return ids, mask, hint_ids, hint_mask, torch.full((hints,), length), numbers % windows, (numbers + 1) % hints


def _padded(rows: int, length: int) -> tuple[Tensor, Tensor]:
    ids, mask = (
        5 + torch.arange(rows * length).reshape(rows, length) * 7 % 100,
        torch.ones(rows, length, dtype=torch.int64),
    )
    if rows > 1:
        mask[-1, length - length // 3 :] = 0
    return ids * mask, mask


def _check_sizes(config: Any) -> None:
    # The model takes its upper layers away from the count of its own configuration.
    if config.num_hidden_layers < 1:
        raise Refused(
            "too few layers",
            kind=Refusal.UNPROCESSABLE,
            field="config.json.num_hidden_layers",
            value=config.num_hidden_layers + JOINT_LAYERS,
            allowed=f"more than the {JOINT_LAYERS} that text and hint go through together",
        )
    if config.max_position_embeddings < WINDOW + HINT_LENGTH:
        raise Refused(
            "too few positions",
            kind=Refusal.UNPROCESSABLE,
            field="config.json.max_position_embeddings",
            value=config.max_position_embeddings,
            allowed=f"{WINDOW + HINT_LENGTH} or more, for a window and a hint",
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    # The pipeline warns on every call that it has no CUDA to cast on, and prints while it loads.
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
