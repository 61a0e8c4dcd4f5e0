"""The manifest of a model version, and its digest: the version's identity everywhere.

Pure. The digest is the SHA-256 of the canonical encoding (`canonical`): JSON, keys sorted, no spaces, so any JSON library
can recompute it. Unknown fields of a newer minor format are kept in the bytes a device stores, never re-encoded.
"""

import hashlib
from enum import StrEnum

import msgspec

from shared.protocol import names
from shared.protocol.envelope import decoded
from shared.protocol.errors import Refusal, Refused

MANIFEST_FILE = "manifest.json"
FORMAT = 1
MAX_BYTES = 4 * 1024 * 1024


class TaskKind(StrEnum):
    """What a model does; decides pre- and post-processing."""

    TENSOR = "tensor"
    TEXT_CLASSIFICATION = "text-classification"
    TOKEN_CLASSIFICATION = "token-classification"  # noqa: S105 - a task, not a secret
    TEXT_EMBEDDING = "text-embedding"
    TEXT_GENERATION = "text-generation"
    RELATION_EXTRACTION = "relation-extraction"


class Chunk(msgspec.Struct, frozen=True):
    """A content-addressed piece of a file: SHA-256 of its bytes, and their number."""

    digest: str
    size: int


class File(msgspec.Struct, frozen=True, kw_only=True):
    """One file of the bundle. `path` is a bare file name; the chunks in order make up its bytes."""

    path: str
    size: int
    sha256: str
    chunks: tuple[Chunk, ...]


class Requirements(msgspec.Struct, frozen=True, kw_only=True):
    """What a device must have to run a variant. `features` are CPU features or execution providers, all needed."""

    memory_bytes: int = 0
    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    features: tuple[str, ...] = ()


class Variant(msgspec.Struct, frozen=True, kw_only=True):
    """One runnable form of the model; `files[0]` is the program, the rest what only this variant needs.

    `measured`: on the importing machine, one thread: `load_ms`, `memory_bytes` (resident, at its peak), `ms_<rows>x<tokens>`.
    `agreement`: with the source's own answers on the golden set and with fp32, by name, such as `labels` or `least_cosine`.
    `accepted_drift`: the figure its publisher named when it missed the bar and was let in all the same.
    """

    name: str
    runtime: str
    precision: str
    files: tuple[str, ...]
    requirements: Requirements = Requirements()
    batch_invariant: bool = True
    measured: dict[str, float] = {}
    agreement: dict[str, float] = {}
    accepted_drift: str | None = None


class TensorSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One input or output: OIP datatype, and shape with -1 for what varies."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """A decoder's cache: `layers` pairs of keys and values, each [rows, heads, length, head_size].

    `context` bounds prompt and answer together, in tokens; any token of `ends` ends the text; `starts` go before the prompt.
    """

    layers: int
    heads: int
    head_size: int
    context: int
    ends: tuple[int, ...] = ()
    starts: tuple[int, ...] = ()


class Extraction(msgspec.Struct, frozen=True, kw_only=True):
    """Prompted extraction: `hint_length` and `window` in tokens, windows start every `stride`; `threshold` of a probability.

    `schema` is what is looked for where a request names nothing: JSON text, types nested as in `{"person": {"school": null}}`.
    """

    hint_length: int
    window: int
    stride: int
    threshold: float
    schema: str | None = None


class Processing(msgspec.Struct, frozen=True, kw_only=True):
    """Everything pre- and post-processing needs to know, so that an edge needs no hub configuration.

    `tokenizer` and `crf` are file names in the bundle; `max_length` counts tokens, special ones included. `nfc`: the text is
    composed first (Unicode NFC). `overlap`: tokens that two windows of a text longer than `max_length` share, where the task
    reads long texts in windows.
    """

    tokenizer: str | None = None
    max_length: int = 512
    lowercase: bool = True
    char_level: bool = False
    crf: str | None = None
    pooling: str | None = None
    normalize: bool = False
    nfc: bool = False
    overlap: int = 64
    generation: Generation | None = None
    extraction: Extraction | None = None


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """A model version. `labels` in id order; `golden` names the file with the golden set."""

    format: int = FORMAT
    name: str
    version: str
    task: TaskKind
    variants: tuple[Variant, ...]
    files: tuple[File, ...]
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    labels: tuple[str, ...] = ()
    processing: Processing = Processing()
    golden: str | None = None
    source: dict[str, str] = {}
    vector_space: str | None = None

    def file(self, path: str) -> File:
        """The entry of `path`; raises KeyError for one the manifest lacks (checked when it was parsed)."""
        return next(entry for entry in self.files if entry.path == path)

    def variant(self, name: str) -> Variant:
        """The variant `name`.

        Raises:
            Refused: there is none of that name; says which there are.

        """
        for variant in self.variants:
            if variant.name == name:
                return variant
        allowed = ", ".join(variant.name for variant in self.variants)
        raise Refused("unknown variant", kind=Refusal.NOT_FOUND, field="variant", value=name, allowed=allowed)

    def files_of(self, variant: str) -> tuple[File, ...]:
        """What a device that runs `variant` needs: its own files and those that belong to no variant."""
        own = set(self.variant(variant).files)
        others = {path for entry in self.variants for path in entry.files} - own
        return tuple(entry for entry in self.files if entry.path not in others)


def canonical(manifest: Manifest) -> bytes:
    """The bytes that are hashed and stored: sorted keys, no spaces."""
    return msgspec.json.encode(manifest, order="sorted")


def digest_of(data: bytes) -> str:
    """SHA-256 of the manifest's bytes, as hexadecimal text."""
    return hashlib.sha256(data).hexdigest()


def parse_manifest(data: bytes) -> Manifest:
    """A checked manifest.

    Raises:
        Refused: too large, not JSON, or a manifest that contradicts itself; names the field.

    """
    if len(data) > MAX_BYTES:
        raise Refused(
            "manifest too large", kind=Refusal.TOO_LARGE, field="$", value=len(data), allowed=f"{MAX_BYTES} B"
        )
    manifest = decoded(data, Manifest)
    check_manifest(manifest)
    return manifest


def check_manifest(manifest: Manifest) -> None:
    """Refuse a manifest that contradicts itself or whose names could leave the bundle's folder."""

    def bad(message: str, field: str, value: object, allowed: str | None = None) -> Refused:
        return Refused(message, kind=Refusal.UNPROCESSABLE, field=field, value=value, allowed=allowed)

    if manifest.format != FORMAT:
        raise bad("unknown manifest format", "format", manifest.format, str(FORMAT))
    names.checked("model", manifest.name, field="name")
    names.checked("version", manifest.version, field="version")
    if not manifest.variants:
        raise bad("a version needs a variant", "variants", [])
    paths = [entry.path for entry in manifest.files]
    if len(set(paths)) != len(paths):
        raise bad("a file stands twice", "files", paths)
    for i, entry in enumerate(manifest.files):
        if names.FILE.fullmatch(entry.path) is None or entry.path == MANIFEST_FILE:
            raise bad("not an allowed file name", f"files[{i}].path", entry.path, names.ALLOWED["file"])
        names.checked("digest", entry.sha256, field=f"files[{i}].sha256")
        for j, chunk in enumerate(entry.chunks):
            names.checked("digest", chunk.digest, field=f"files[{i}].chunks[{j}].digest")
            if chunk.size < 0:
                raise bad("negative size", f"files[{i}].chunks[{j}].size", chunk.size)
        if sum(chunk.size for chunk in entry.chunks) != entry.size:
            raise bad("chunks do not add up to the file", f"files[{i}].size", entry.size)
    if len({variant.name for variant in manifest.variants}) != len(manifest.variants):
        raise bad("a variant stands twice", "variants", [variant.name for variant in manifest.variants])
    for i, variant in enumerate(manifest.variants):
        names.checked("file", variant.name, field=f"variants[{i}].name")
        if not variant.files:
            raise bad("a variant needs a file", f"variants[{i}].files", [])
        for path in variant.files:
            if path not in paths:
                raise bad("names a file the bundle lacks", f"variants[{i}].files", path)
    for field, named in (
        ("golden", manifest.golden),
        ("processing.tokenizer", manifest.processing.tokenizer),
        ("processing.crf", manifest.processing.crf),
    ):
        if named is not None and named not in paths:
            raise bad("names a file the bundle lacks", field, named)
