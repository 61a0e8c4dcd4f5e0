"""A folder as our own training code writes it: `model.json`, `model.fp32.onnx`, and what its task needs beside them.

`tokenizer.json` for texts, `crf.npz` for tags, `golden.json` with inputs worth asking and what the author says they must give,
`notes.md` for the card. There is no pipeline of the model's own: what the fp32 program answers is what every variant is held to.
"""

import stat
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from cloud_core.importer.answers import answer_with
from cloud_core.importer.expected import expect_of
from cloud_core.importer.forms import FILES, FP32, fp32_variant
from cloud_core.importer.golden import read_items
from cloud_core.importer.measure import check_runs
from cloud_core.importer.opened import Expect, Opened, Reference
from cloud_core.models.bundling import described
from cloud_core.models.source import Source, read_source
from shared.bundle.manifest import Manifest, Processing, TaskKind
from shared.protocol.errors import Refusal, Refused
from shared.serving.trial.contents import check_arrays, check_json, check_text
from shared.serving.trial.program import check_program
from shared.serving.versions.golden import GoldenItem

PROGRAM, TOKENIZER, CRF, GOLDEN, NOTES = "model.fp32.onnx", "tokenizer.json", "crf.npz", "golden.json", "notes.md"


def open_project(folder: Path) -> Opened:
    """The model in `folder`.

    Raises:
        Refused: something is missing, no regular file, or not what it should be; names the file and the field.

    """
    source = read_source(folder)
    check_program(_regular(folder, PROGRAM))
    graph = (folder / PROGRAM).read_bytes()
    files: dict[str, bytes] = {}
    if source.task is not TaskKind.TENSOR:
        check_json(_regular(folder, TOKENIZER))
        files[TOKENIZER] = (folder / TOKENIZER).read_bytes()
    if (folder / CRF).exists():
        check_arrays(_regular(folder, CRF))
        files[CRF] = (folder / CRF).read_bytes()
    processing = _processing(source, files)
    _try(folder, source, processing)

    def reference(texts: Sequence[str]) -> list[Expect]:
        return _answered(source, processing, graph, files, texts)

    return Opened(
        architecture="model.json folder",
        task=source.task,
        processing=processing,
        labels=source.labels,
        dimension=source.dimension,
        graph=graph,
        reference=reference if source.task is not TaskKind.TENSOR else None,
        files=files,
        about={"kind": "trained", "golden": "the fp32 program's own answers; the source has no pipeline beside it"},
        golden=_golden(folder, reference),
        plain_int8=source.plain_int8,
        notes=_notes(folder),
    )


def _processing(source: Source, files: dict[str, bytes]) -> Processing:
    return Processing(
        tokenizer=TOKENIZER if TOKENIZER in files else None,
        max_length=source.max_length,
        lowercase=source.processing.lowercase,
        char_level=source.char_level,
        crf=CRF if CRF in files else None,
        pooling=source.pooling,
        normalize=source.normalize,
    )


def _answered(
    source: Source, processing: Processing, graph: bytes, files: dict[str, bytes], texts: Sequence[str]
) -> list[Expect]:
    """What the fp32 program answers, by the engine's own code."""
    manifest = _manifest(source, processing)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / FILES[FP32]).write_bytes(graph)
        for file, data in files.items():
            (folder / file).write_bytes(data)
        return [expect_of(result) for result in answer_with(manifest, folder, FP32, texts)]


def _manifest(source: Source, processing: Processing) -> Manifest:
    return Manifest(
        name=source.name,
        version=source.version,
        task=source.task,
        variants=(fp32_variant(),),
        files=(),
        labels=source.labels,
        processing=processing,
    )


def _try(folder: Path, source: Source, processing: Processing) -> None:
    """Run the program in a process that may die of it, before this one runs it."""
    present = [name for name in (PROGRAM, TOKENIZER, CRF) if (folder / name).exists()]
    manifest = _manifest(source, processing)
    check_runs(
        msgspec.structs.replace(manifest, files=tuple(described(folder / name) for name in present)), folder, FP32
    )


def _golden(folder: Path, reference: Reference) -> tuple[GoldenItem, ...]:
    """The folder's golden set; the program itself answers what nothing is expected of."""
    if not (folder / GOLDEN).exists():
        return ()
    items = read_items(_regular(folder, GOLDEN))
    asked = [item.text for item in items if item.text is not None and item.expect is None]
    answered = dict(zip(asked, reference(asked) if asked else (), strict=True))
    expected = ((item, item.expect or answered.get(item.text or "")) for item in items)
    return tuple(
        GoldenItem(text=item.text, inputs=item.inputs, expect=expect) for item, expect in expected if expect is not None
    )


def _notes(folder: Path) -> str:
    if not (folder / NOTES).exists():
        return ""
    check_text(_regular(folder, NOTES))
    return (folder / NOTES).read_text(encoding="utf-8")


def _regular(folder: Path, name: str) -> Path:
    path = folder / name
    try:
        is_regular = stat.S_ISREG(path.lstat().st_mode)
    except OSError as error:
        text = f"{name} is missing: {error.strerror}"
        raise Refused(text, kind=Refusal.UNPROCESSABLE, field=name, allowed=f"a file {name}") from error
    if not is_regular:
        raise Refused("not a regular file", kind=Refusal.UNPROCESSABLE, field=name, allowed="files, no links")
    return path
