"""The trial itself: load a variant with the code that will serve it, run it, replay its golden set, measure it where asked.

Runs in the sacrificial child, on its one thread. Whatever it raises says that the variant must not be loaded.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median

import msgspec
import numpy as np
import onnxruntime

from shared.bundle.manifest import Manifest, TaskKind, TensorSpec, Variant
from shared.protocol.errors import Corrupt, Refusal, Refused
from shared.serving.answer import Array
from shared.serving.arrangement import Arrangement
from shared.serving.sessions.datatypes import HELD
from shared.serving.sessions.onnx import CPU
from shared.serving.sessions.open import open_session
from shared.serving.sessions.session import Session
from shared.serving.tasks.choose import task_for
from shared.serving.trial.contents import ONNX
from shared.serving.trial.model import Model
from shared.serving.versions.golden import item_of, read_golden
from shared.serving.versions.rehearsal import ALONE, differences, warming

ROWS = 8
"""Items of one batch."""
SIZES = ((1, 16), (1, 32), (1, 128), (8, 64))
"""Rows and tokens that are measured."""
REPEATS = 5
GUESSES = (1, 8, 64, 224)
"""Sizes that are tried for what varies in a shape, where there is no golden set to say."""
_CHARACTER = "好"
"""One token of every vocabulary here, known to it or not."""


class Tried(msgspec.Struct, frozen=True, kw_only=True):
    """What a variant that runs was found to be."""

    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    measured: dict[str, float] = {}
    unrun: str = ""


class GoldenDiffersError(Exception):
    """What the model answers is not what its bundle says."""

    def __init__(self, found: Sequence[str]) -> None:
        super().__init__("the golden set differs")
        self.differences = tuple(found)


def lacking(variant: Variant) -> str:
    """Why `variant` cannot be run here; empty where it can."""
    if variant.runtime not in ONNX:
        return f"{variant.name} was not run: there is no runtime {variant.runtime} in a trial"
    # What a graphics processor maps into a process exceeds any limit of address space.
    if others := [name for name in variant.requirements.providers if name not in CPU]:
        return f"{variant.name} was not run: it needs {', '.join(others)}, and a trial has the processor alone"
    return ""


def replay(
    manifest: Manifest,
    variant: Variant,
    folder: Path,
    *,
    arrangement: Arrangement,
    measure: bool,
    plain: bool = False,
) -> Tried:
    """Load the variant and make it answer; a `plain` program's manifest says nothing of its inputs yet.

    Raises:
        GoldenDiffersError: it answers something else than its bundle says.
        TidelineError: it cannot be loaded or run.

    """
    began = time.perf_counter()
    session = open_session(folder / variant.files[0], variant, arrangement)
    session.load()
    if plain:
        manifest = msgspec.structs.replace(manifest, inputs=session.inputs, outputs=session.outputs)
    if manifest.task is TaskKind.TENSOR:
        _check_signature(manifest, session)
    model = Model(task_for(manifest, folder), session)
    loaded = time.perf_counter() - began
    items, unrun = rehearsed(model, manifest, variant.name, folder, precision=arrangement.precision), ""
    if manifest.task is TaskKind.TENSOR and not items:
        items, unrun = made_up(model, manifest.inputs)
    measured: dict[str, float] = {}
    if measure:
        measured = {
            "load_ms": round(loaded * 1000, 1),
            **_speeds(model, manifest, items),
            "memory_bytes": float(_peak()),
        }
    return Tried(inputs=session.inputs, outputs=session.outputs, measured=measured, unrun=unrun)


def _check_signature(manifest: Manifest, session: Session) -> None:
    """What callers are told must be what the program takes and gives; shapes are held to it by the runs."""
    for field, told, own in (
        ("inputs", manifest.inputs, session.inputs),
        ("outputs", manifest.outputs, session.outputs),
    ):
        said = {spec.name: spec.datatype for spec in told}
        real = {spec.name: spec.datatype for spec in own}
        if said != real and (said or field == "inputs"):
            allowed = ", ".join(f"{name} {kind}" for name, kind in real.items())
            raise Refused(
                f"the manifest's {field} are not the program's",
                kind=Refusal.UNPROCESSABLE,
                field=field,
                value=said,
                allowed=allowed,
                code="other-signature",
            )


def rehearsed(model: Model, manifest: Manifest, variant: str, folder: Path, *, precision: str = "") -> list[object]:
    """Warm the model and replay its golden set; the items of that set. `precision` as of an arrangement."""
    if manifest.task is not TaskKind.TENSOR:
        for text, parameters in warming(manifest):
            model.answers([text], parameters)
    golden = read_golden(manifest, folder)
    items = [item_of(item, manifest) for item in golden.items]
    # Two requests' arrays need not have one shape: each runs alone.
    rows = 1 if manifest.task is TaskKind.TENSOR else ROWS
    alone = [(i, model.answers([item])[0]) for i, item in enumerate(items[:ALONE])]
    together = [
        (start + i, result)
        for start in range(0, len(items), rows)
        for i, result in enumerate(model.answers(items[start : start + rows]))
    ]
    if found := differences(golden, variant, [*alone, *together], precision=precision):
        raise GoldenDiffersError(found)
    return items


def made_up(model: Model, inputs: Sequence[TensorSpec]) -> tuple[list[object], str]:
    """An input of ones, or zeros, that the program takes, computed once; or why it takes none of those tried.

    Raises:
        Corrupt: its inputs have no other shapes than these and it does not run, or it wants more memory than there is.

    """
    why = ""
    for feeds in _guesses(inputs):
        try:
            model.answers([feeds])
        except (Refused, Corrupt) as error:
            if out_of_memory(error.message):
                raise
            why = why or error.message
        else:
            return [feeds], ""
    if not _varies(inputs):
        raise Corrupt(f"it does not run: {why}", code="does-not-run")
    return [], f"it was loaded but not run: it has no golden set, and inputs of ones do not fit it: {why}"


def _guesses(inputs: Sequence[TensorSpec]) -> Iterator[dict[str, Array]]:
    for guess in GUESSES if _varies(inputs) else GUESSES[:1]:
        shapes = [tuple(guess if size < 0 else size for size in spec.shape) for spec in inputs]
        # Zero is an index into everything, one is not; zero divides nothing, one does.
        for make in (np.ones, np.zeros):
            yield {
                spec.name: np.asarray(make(shape, dtype=np.int8), dtype=str).astype(object)
                if spec.datatype == "BYTES"
                else make(shape, dtype=HELD[spec.datatype])
                for spec, shape in zip(inputs, shapes, strict=True)
            }


def _varies(inputs: Sequence[TensorSpec]) -> bool:
    return any(size < 0 for spec in inputs for size in spec.shape)


def _speeds(model: Model, manifest: Manifest, items: Sequence[object]) -> dict[str, float]:
    """Milliseconds by `ms_<rows>x<tokens>`; a generator's are of reading so many tokens and writing one."""
    if manifest.task is TaskKind.TENSOR:
        return {f"ms_1x{model.task.prepare(items[0], {}).tokens}": _milliseconds(model, items[:1], {})} if items else {}
    parameters = {"max_tokens": 1} if manifest.task is TaskKind.TEXT_GENERATION else {}
    found: dict[str, float] = {}
    for rows, tokens in SIZES:
        # Special tokens count too, and not every task has them: the text is cut until it is as long as it should be.
        text = next(
            (
                text
                for spare in (0, 1, 2, 3)
                if _tokens(model, text := _CHARACTER * (tokens - spare), parameters) == tokens
            ),
            None,
        )
        if text is not None:
            found[f"ms_{rows}x{tokens}"] = _milliseconds(model, [text] * rows, parameters)
    return found


def _tokens(model: Model, text: str, parameters: Mapping[str, object]) -> int:
    prepared = model.task.prepare(text, {**parameters, "truncate": True})
    return 0 if prepared.truncated or prepared.rows > 1 else prepared.tokens


def _milliseconds(model: Model, items: Sequence[object], parameters: Mapping[str, object]) -> float:
    model.answers(items, parameters)
    times: list[float] = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        model.answers(items, parameters)
        times.append(time.perf_counter() - began)
    return round(median(times) * 1000, 3)


def _peak() -> int:
    """The most memory this process ever had resident, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def out_of_memory(message: str) -> bool:
    """Whether a runtime's words mean that it did not get the memory it asked for."""
    return any(
        words in message for words in ("bad_alloc", "Failed to allocate memory", "bfc_arena", "memory allocation of")
    )


def runtime() -> str:
    """The runtime that a trial says something about."""
    return f"onnxruntime {onnxruntime.__version__}"
