"""What a variant takes on the machine that imports it: a trial loads and runs it alone in a process, and says what it measured."""

import asyncio
import tempfile
import time
from pathlib import Path
from statistics import median

import msgspec
from onnx import TensorProto, helper

from cloud_core.importer.answers import Model, opened_variant
from cloud_core.models.bundling import SESSION_BYTES, described
from cloud_core.replicas.runtimes import TORCH
from shared.bundle.manifest import Manifest, TaskKind, Variant, canonical
from shared.protocol.errors import Corrupt
from shared.serving.trial.run import Trial, try_bundle
from shared.serving.trial.verdict import Died, TrialLimits, TrialRequest

MEMORY_BYTES = 16 << 30
"""Address space of a trial; the importing machine has read the model already."""
SECONDS = 600.0
ROUND = 1 << 20
"""Requirements are told in whole mebibytes."""
_SPARE = 1.15
"""A device needs more than was resident here: its batches are larger."""
_TORCH_BYTES = 600 << 20
"""What torch itself takes."""
_REPEATS = 5
_CHARACTER = "好"
"""One token of every vocabulary here."""
SIZES = ((1, 16), (1, 32), (1, 128), (8, 64))
"""Rows and tokens, as a trial measures them."""


def measured(manifest: Manifest, folder: Path, variant: Variant, *, trial: Trial = try_bundle) -> Variant:
    """The variant with `measured` and the memory it requires; files of `folder` must be described in the manifest.

    Raises:
        Corrupt: it cannot be loaded, or does not reproduce its golden set, in a process of its own; `code` says which.

    """
    found = (
        _torch_speeds(manifest, folder, variant)
        if variant.runtime == TORCH
        else _tried(manifest, folder, variant, trial)
    )
    # A device pays for Python and ONNX Runtime once, however many models it serves.
    own = found["memory_bytes"] - _bytes_of_runtime(trial) if "memory_bytes" in found else 0.0
    memory = max(int(own * _SPARE), _size(manifest, variant)) if own else _guessed(manifest, variant)
    requirements = msgspec.structs.replace(variant.requirements, memory_bytes=-(-memory // ROUND) * ROUND)
    return msgspec.structs.replace(variant, measured=found, requirements=requirements)


def check_runs(manifest: Manifest, folder: Path, variant: str, *, trial: Trial = try_bundle) -> None:
    """Load and run a program from outside in a process that may die of it, before this one does.

    Raises:
        Corrupt: it must not be loaded; `code` says why.

    """
    _tried(manifest, folder, manifest.variant(variant), trial, measure=False)


def _tried(
    manifest: Manifest, folder: Path, variant: Variant, trial: Trial, *, measure: bool = True
) -> dict[str, float]:
    request = TrialRequest(
        folder=str(folder),
        variant=variant.name,
        manifest=canonical(manifest).decode(),
        limits=TrialLimits(memory_bytes=MEMORY_BYTES, seconds=SECONDS),
        measure=measure,
    )

    async def tried() -> dict[str, float]:
        verdict = await trial(request)
        if isinstance(verdict, Died):
            message = "; ".join((f"{variant.name}: {verdict.message}", *verdict.differences[:3]))
            raise Corrupt(message, code=verdict.code)
        return dict(verdict.measured)

    return asyncio.run(tried())


def _torch_speeds(manifest: Manifest, folder: Path, variant: Variant) -> dict[str, float]:
    """A trial has no torch: timed in this process, whose memory would tell nothing."""
    if manifest.task in (TaskKind.TENSOR, TaskKind.TEXT_GENERATION):
        return {}
    began = time.perf_counter()
    with opened_variant(manifest, folder, variant.name) as model:
        found = {"load_ms": round((time.perf_counter() - began) * 1000, 1)}
        for rows, tokens in SIZES:
            texts = (_CHARACTER * (tokens - special) for special in (2, 1, 0))
            fitting = (text for text in texts if model.task.prepare(text, {"truncate": True}).tokens == tokens)
            if (text := next(fitting, None)) is not None:
                found[f"ms_{rows}x{tokens}"] = _milliseconds(model, [text] * rows)
    return found


def _milliseconds(model: Model, items: list[str]) -> float:
    model.answers(items, rows=len(items))
    times = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        model.answers(items, rows=len(items))
        times.append(time.perf_counter() - began)
    return round(median(times) * 1000, 3)


def _bytes_of_runtime(trial: Trial) -> float:
    """What a trial of next to nothing takes."""
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "nothing", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    variant = Variant(name="nothing", runtime="onnx", precision="fp32", files=("nothing.onnx",))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "nothing.onnx").write_bytes(model.SerializeToString())
        manifest = Manifest(
            name="nothing", version="0.0.0", task=TaskKind.TENSOR, variants=(variant,),
            files=(described(folder / "nothing.onnx"),),
        )  # fmt: skip
        return _tried(manifest, folder, variant, trial).get("memory_bytes", 0.0)


def _size(manifest: Manifest, variant: Variant) -> int:
    return sum(manifest.file(path).size for path in variant.files)


def _guessed(manifest: Manifest, variant: Variant) -> int:
    return 2 * _size(manifest, variant) + (_TORCH_BYTES if variant.runtime == TORCH else SESSION_BYTES)
