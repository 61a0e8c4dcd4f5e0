"""What the importer is asked, what it says while it works, and how it ends: the wire between it and who started it.

Nothing here loads torch. The importer is run as `python -m cloud_core.importer REQUEST.json WORK`; it writes one JSON line
per `Said` on stdout, the last of them an `Ended`, and leaves the bundle in `WORK/bundle`.
"""

import msgspec

VARIANTS = ("cpu-fp32", "cpu-int8", "cpu-int8-dynamic", "cpu-int8-static", "cuda-fp16", "torch")
"""What can be asked for. `cpu-int8-dynamic` depends on batch mates and is marked so; `torch` is a `torch.export` program."""
DEFAULT_VARIANTS = ("cpu-fp32", "cpu-int8")
BUNDLE = "bundle"


class ImportRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One import. Exactly one of `hub` and `path` is set.

    `hub`: `modelscope:<id>[@revision]`. `path`: a folder, or an `.onnx` file. `said`: SOURCE as the person wrote it, for the
    card. `signature` and `golden`: paths of a signature file (an `.onnx` file's inputs, outputs and labels) and of a golden set
    to be used beside the source's own answers. `accept_drift`: by variant, the measured figure that is accepted although it
    misses the bar. `prune_heads`: the share of attention heads to remove, 0 to below 1. `schema`: of an extraction, JSON text.
    """

    name: str
    version: str
    said: str
    hub: str | None = None
    path: str | None = None
    variants: tuple[str, ...] = DEFAULT_VARIANTS
    signature: str | None = None
    golden: str | None = None
    accept_drift: dict[str, float] = {}
    prune_heads: float = 0.0
    schema: str | None = None
    description: str = ""


class Progressed(msgspec.Struct, frozen=True, kw_only=True, tag="progress"):
    """A step began or went on: `done` of all work, 0 to 1."""

    step: str
    done: float
    detail: str = ""


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag="failed"):
    """The import ended without a bundle. `code`, `field`, `value`, `allowed` as of `shared.protocol.errors`."""

    message: str
    code: str
    field: str | None = None
    value: str | None = None
    allowed: str | None = None


class Imported(msgspec.Struct, frozen=True, kw_only=True, tag="imported"):
    """The bundle is whole; `digest` is that of its manifest."""

    digest: str


Ended = Failed | Imported
Said = Progressed | Failed | Imported
