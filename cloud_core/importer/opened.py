"""A source model, opened: what every later step of an import works from, whatever form the source had."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from shared.bundle.manifest import Processing, TaskKind, TensorSpec
from shared.serving.versions.golden import GoldenItem

Expect = dict[str, object] | None
"""What the golden set calls `expect` (see `shared.serving.versions.golden`); None where the source itself cannot answer that input."""
Reference = Callable[[Sequence[str]], list[Expect]]


@dataclass(frozen=True, kw_only=True)
class Traced:
    """What the exporter needs of a torch module whose `forward` takes the graph's inputs by position.

    `dynamic`: by input or output name, its axes that vary, such as `{0: "batch", 1: "sequence"}`. `dynamo` picks the exporter.
    `checks`: further inputs, of other sizes than `example`, on which the exported graph must give what the module gives.
    """

    module: Any
    example: tuple[Any, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    dynamic: Mapping[str, Mapping[int, str]]
    dynamo: bool = False
    checks: tuple[tuple[Any, ...], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Opened:
    """Exactly one of `traced` (a torch model) and `graph` (the bytes of a ready fp32 ONNX file) is set.

    `architecture` is the name in the list of supported ones. `files` go into the bundle as they are: `tokenizer.json`,
    `crf.npz`. `reference` answers as the source's own pipeline does; None for a source that has no pipeline of its own.
    `about` goes onto the card and into the manifest's `source`: ids, revision, digests of the weights that were read.
    `golden` are inputs with whole expectations that the source brings along; `notes`, in Markdown, goes onto the card.
    `plain_int8`: the form of int8 it was scored in (see `int8_per_token`).
    """

    architecture: str
    task: TaskKind
    processing: Processing
    labels: tuple[str, ...] = ()
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    dimension: int | None = None
    traced: Traced | None = None
    graph: bytes | None = None
    reference: Reference | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)
    about: Mapping[str, str] = field(default_factory=dict)
    golden: tuple[GoldenItem, ...] = ()
    plain_int8: bool = False
    notes: str = ""
