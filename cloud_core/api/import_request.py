"""What may be asked of an import, checked field by field before anything is stored or run."""

import math
import re
from collections.abc import Sequence

import msgspec

from cloud_core.api.models import LONGEST_TEXT
from cloud_core.importer.request import DEFAULT_VARIANTS, VARIANTS
from cloud_core.store.imports import HUB, Asked, SourceFile
from shared.protocol import names
from shared.protocol.errors import Refusal, Refused

_HUB = re.compile(
    r"modelscope:[A-Za-z0-9][\w.-]{0,127}/[A-Za-z0-9][\w.-]{0,127}(?:@[A-Za-z0-9][\w./-]{0,127})?", re.ASCII
)
SOURCES = "modelscope:<owner>/<name>[@revision], or the files of a folder or of one .onnx file"
PATHS = "a file name, or a folder and a file name, of A-Z, a-z, 0-9, '.', '_' and '-', no leading dot"
MAX_FILES = 1000
DEEPEST = 2
MAX_BESIDE = 64 << 20
MAX_SCHEMA = 64 << 10
_LONGEST_SOURCE = 512


class NewImport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An import to make. `source` as a person writes it; `files` are a local source's, empty for one on a hub.

    `golden`: a golden set; `signature`: inputs, outputs and labels of an `.onnx` file. `accept_drift`: by variant, the measured
    figure that is accepted although it misses the bar. `prune_heads`: the share of attention heads to remove. `schema`: what an
    extraction looks for, JSON text.
    """

    model: str
    version: str
    source: str
    variants: tuple[str, ...] = DEFAULT_VARIANTS
    files: tuple[SourceFile, ...] = ()
    golden: SourceFile | None = None
    signature: SourceFile | None = None
    accept_drift: dict[str, float] = {}
    prune_heads: float = 0.0
    schema: str | None = None
    description: str = ""


def checked(body: NewImport, *, most_bytes: int) -> Asked:
    """What is stored of a request; `most_bytes` is what its files may have together.

    Raises:
        Refused: names the field, its value and what is allowed.

    """
    names.checked("model", body.model, field="model")
    names.checked("version", body.version, field="version")
    _check_source(body)
    _check_files(body.files)
    for field, file in (("golden", body.golden), ("signature", body.signature)):
        if file is not None:
            _check_file(file, field)
            if "/" in file.path:
                raise Refused("not a file name", field=f"{field}.path", value=file.path, allowed=names.ALLOWED["file"])
            if file.size > MAX_BESIDE:
                raise _too_large(f"{field}.size", file.size, MAX_BESIDE)
    asked = msgspec.convert(
        {name: value for name, value in msgspec.structs.asdict(body).items() if name not in ("model", "version")}, Asked
    )
    total = sum(file.size for file in asked.every_file)
    if total > most_bytes:
        raise _too_large("files", total, most_bytes)
    _check_choices(body)
    return asked


def _check_source(body: NewImport) -> None:
    if not 0 < len(body.source) <= _LONGEST_SOURCE or not body.source.isprintable():
        raise Refused("not a source", field="source", value=body.source, allowed=SOURCES)
    if body.source.startswith(HUB):
        if _HUB.fullmatch(body.source) is None or ".." in body.source:
            raise Refused("not a model of the hub", field="source", value=body.source, allowed=SOURCES)
        if body.files:
            raise Refused(
                "a model of the hub comes without files", field="files", value=len(body.files), allowed="none"
            )
    elif not body.files:
        raise Refused("no such source", field="source", value=body.source, allowed=SOURCES)


def _check_files(files: Sequence[SourceFile]) -> None:
    if len(files) > MAX_FILES:
        raise Refused("too many files", field="files", value=len(files), allowed=f"{MAX_FILES} at most")
    for i, file in enumerate(files):
        _check_file(file, f"files[{i}]")
    paths = {file.path for file in files}
    folders = {file.path.rpartition("/")[0] for file in files}
    for i, file in enumerate(files):
        if file.path in folders:
            raise Refused("a file and a folder at once", field=f"files[{i}].path", value=file.path)
    if len(paths) != len(files):
        raise Refused("a file stands twice", field="files", value=sorted(file.path for file in files))


def _check_file(file: SourceFile, field: str) -> None:
    parts = file.path.split("/")
    if len(parts) > DEEPEST or any(names.FILE.fullmatch(part) is None for part in parts):
        raise Refused("not an allowed path", field=f"{field}.path", value=file.path, allowed=PATHS)
    names.checked("digest", file.sha256, field=f"{field}.sha256")
    for j, chunk in enumerate(file.chunks):
        names.checked("digest", chunk.digest, field=f"{field}.chunks[{j}].digest")
        if chunk.size < 0:
            raise Refused("negative size", field=f"{field}.chunks[{j}].size", value=chunk.size)
    if sum(chunk.size for chunk in file.chunks) != file.size:
        raise Refused("the chunks do not add up to the file", field=f"{field}.size", value=file.size)


def _check_choices(body: NewImport) -> None:
    allowed = ", ".join(VARIANTS)
    for i, variant in enumerate(body.variants):
        if variant not in VARIANTS:
            raise Refused("no such variant", field=f"variants[{i}]", value=variant, allowed=allowed)
    if not body.variants or len(set(body.variants)) != len(body.variants):
        raise Refused(
            "not a choice of variants", field="variants", value=list(body.variants), allowed=f"some of {allowed}"
        )
    for variant, figure in body.accept_drift.items():
        if variant not in body.variants:
            raise Refused(
                "a variant that was not asked for",
                field="accept_drift",
                value=variant,
                allowed=", ".join(body.variants),
            )
        if not math.isfinite(figure):
            raise Refused("not a figure", field=f"accept_drift.{variant}", value=figure, allowed="a finite number")
    if not 0.0 <= body.prune_heads < 1.0:
        raise Refused("not a share", field="prune_heads", value=body.prune_heads, allowed="0 to below 1")
    if body.schema is not None:
        _check_schema(body.schema)
    if len(body.description) > LONGEST_TEXT:
        raise _too_large("description", len(body.description), LONGEST_TEXT)


def _check_schema(text: str) -> None:
    if len(text.encode()) > MAX_SCHEMA:
        raise _too_large("schema", len(text.encode()), MAX_SCHEMA)
    try:
        msgspec.json.decode(text, type=dict[str, object])
    except (msgspec.DecodeError, RecursionError) as error:
        raise Refused(f"not a schema: {error}", field="schema", value=text, allowed="a JSON object") from error


def _too_large(field: str, value: int, most: int) -> Refused:
    return Refused("too large", kind=Refusal.TOO_LARGE, field=field, value=value, allowed=f"{most} at most")
