"""What a source folder says of itself in `model.json`, checked field by field before anything is published."""

from pathlib import Path

import msgspec

from shared.bundle.manifest import TaskKind
from shared.protocol import names
from shared.protocol.envelope import path_in
from shared.protocol.errors import Refusal, Refused

SOURCE_FILE = "model.json"
MAX_BYTES = 1_000_000


class SourceProcessing(msgspec.Struct, frozen=True, kw_only=True):
    """What the tokenizer does to a text."""

    lowercase: bool = True


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """A model in source form. `max_length` counts tokens, special ones included; fields it does not know are let be.

    `dimension` is the length of an embedding where it is known. `plain_int8`: the model was scored in the plain form of int8, and
    keeps it when it is imported again (see `cloud_core/importer/int8_per_token.py`).
    """

    name: str
    version: str
    task: TaskKind
    labels: tuple[str, ...] = ()
    max_length: int = 512
    char_level: bool = False
    pooling: str | None = None
    normalize: bool = False
    dimension: int | None = None
    plain_int8: bool = False
    processing: SourceProcessing = SourceProcessing()
    description: str = ""


def read_source(folder: Path) -> Source:
    """The checked `model.json` of `folder`.

    Raises:
        Refused: absent, not JSON, or a field that cannot be; names it.

    """
    path = folder / SOURCE_FILE
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Refused(
            f"no model in {folder}: {error.strerror}", kind=Refusal.NOT_FOUND, field=SOURCE_FILE, value=str(path)
        ) from error
    if len(data) > MAX_BYTES:
        raise Refused("too large", kind=Refusal.TOO_LARGE, field=SOURCE_FILE, value=len(data), allowed=f"{MAX_BYTES} B")
    try:
        source = msgspec.json.decode(data, type=Source)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        message = str(error).partition(" - at ")[0]
        raise Refused(message, kind=Refusal.UNPROCESSABLE, field=path_in(error, SOURCE_FILE)) from error
    _check(source)
    return source


def _check(source: Source) -> None:
    def bad(field: str, value: object, allowed: str) -> Refused:
        path = f"{SOURCE_FILE}.{field}"
        return Refused("impossible value", kind=Refusal.UNPROCESSABLE, field=path, value=value, allowed=allowed)

    names.checked("model", source.name, field=f"{SOURCE_FILE}.name")
    names.checked("version", source.version, field=f"{SOURCE_FILE}.version")
    if not 2 <= source.max_length <= 1_000_000:
        raise bad("max_length", source.max_length, "2 to 1000000")
    labelled = source.task in (TaskKind.TEXT_CLASSIFICATION, TaskKind.TOKEN_CLASSIFICATION)
    if labelled and (not source.labels or len(set(source.labels)) != len(source.labels)):
        raise bad("labels", source.labels, f"one distinct label or more, as {source.task} has")
    if source.task is TaskKind.TEXT_EMBEDDING and source.pooling is None:
        raise bad("pooling", source.pooling, "how token vectors become one, such as mean or cls")
    if source.dimension is not None and source.dimension < 1:
        raise bad("dimension", source.dimension, "1 or more")
