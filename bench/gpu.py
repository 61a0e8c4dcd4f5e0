"""On a GPU: a replica's torch session in bf16 against loops that feed the same model batches by hand.

Two loops, the same weights: the whole model cast to bf16, as most people run it, and torch's automatic casts, which is what the
session does. The goal binds the ratio to the faster of the two. Where there is no GPU the result says so and holds no figure.
"""

import copy
import importlib.util
import tempfile
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path

import numpy as np

from bench.encoder_weights import SHAPES, Ids, weights
from bench.result import Result
from bench.rounds import Interval, interleaved, of, ratio, seconds

NAME = "gpu"
GOAL = 0.95
TOKENS = 128
ROWS = (32, 128, 256)
"""Rows of a batch; each contestant is taken at its best."""
PARITY = 0.05
"""In the logits, which are below 1: all contestants compute the same in bf16."""
SECONDS = 2.0
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
SESSION, CAST, AUTOMATIC = "session", "loop, cast to bf16", "loop, automatic casts"
Run = Callable[[Ids], np.ndarray]  # type: ignore[type-arg]


def run() -> Result:
    """Compare on the first GPU."""
    if importlib.util.find_spec("torch") is None:
        return _absent("torch is not installed")
    import torch  # noqa: PLC0415 - an extra

    if not torch.cuda.is_available():
        return _absent(f"torch {torch.__version__} finds no CUDA device")
    return compare("cuda", "base", note=torch.cuda.get_device_name())


def compare(device: str, encoder: str, *, rows: tuple[int, ...] = ROWS, tokens: int = TOKENS, note: str = "") -> Result:
    """The session against both loops on `device`."""
    with tempfile.TemporaryDirectory() as folder:
        runs = contestants(device, encoder, Path(folder))
        batches = {n: np.random.default_rng(n).integers(5, 20_000, (n, tokens)) for n in rows}
        wanted = runs[CAST](batches[rows[0]])
        for name, each in runs.items():
            difference = float(np.abs(each(batches[rows[0]]) - wanted).max())
            if not difference <= PARITY:
                raise AssertionError(f"{name} answers otherwise than {CAST}: {difference:.3f} apart")
        cells = {f"{name}|{n}": (runs[name], batches[n]) for name in runs for n in rows}
        found = interleaved(list(cells), lambda cell: _rate(*cells[cell]))
    best = {name: max((found[f"{name}|{n}"] for n in rows), key=lambda rates: of(rates).median) for name in runs}
    loop = max((CAST, AUTOMATIC), key=lambda name: of(best[name]).median)
    intervals: dict[str, Interval] = {f"{name}, sequences/s": of(rates) for name, rates in best.items()}
    intervals["session over the better loop"] = ratio(best[SESSION], best[loop])
    intervals["session over automatic casts"] = ratio(best[SESSION], best[AUTOMATIC])
    return Result(
        name=NAME,
        metrics={name: each.median for name, each in intervals.items()},
        goals={"session over the better loop": (">=", GOAL)},
        intervals=intervals,
        notes=(f"{encoder} encoder, {tokens} tokens, bf16, on {note or device}; the better loop: {loop}",),
        versions={"this": {"torch": version("torch")}},
    )


def contestants(device: str, encoder: str, folder: Path) -> Mapping[str, Run]:
    """Each from ids, int64 [rows, tokens] on the host, to logits, float32 on the host."""
    import torch  # noqa: PLC0415

    from bench.torch_encoder import TorchEncoder  # noqa: PLC0415
    from cloud_core.importer.opened import Traced  # noqa: PLC0415
    from cloud_core.importer.torch_program import write_program  # noqa: PLC0415
    from cloud_core.replicas.torch_program import TorchProgram  # noqa: PLC0415

    shape = SHAPES[encoder]
    module = TorchEncoder(shape, weights(shape)).eval()
    example = tuple(torch.ones((2, 7), dtype=torch.int64) for _ in INPUTS)
    both = {0: "batch", 1: "sequence"}
    traced = Traced(
        module=module,
        example=example,
        inputs=INPUTS,
        outputs=("logits",),
        dynamic={**dict.fromkeys(INPUTS, both), "logits": {0: "batch"}},
    )
    write_program(traced, folder / "model.pt2")
    session = TorchProgram(folder / "model.pt2", threads=torch.get_num_threads(), device=device, precision="bf16")
    session.load()
    plain = copy.deepcopy(module).to(device)
    cast = copy.deepcopy(module).to(device, torch.bfloat16)
    kind = torch.device(device).type

    def by_hand(model: object, ids: Ids, *, automatic: bool) -> np.ndarray:  # type: ignore[type-arg]
        with torch.inference_mode(), torch.autocast(kind, torch.bfloat16, enabled=automatic):
            given = torch.from_numpy(ids).to(device)
            logits = model(given, torch.ones_like(given), torch.zeros_like(given))  # type: ignore[operator]
            return logits.float().cpu().numpy()  # type: ignore[no-any-return]

    return {
        SESSION: lambda ids: session.run(dict(zip(INPUTS, (ids, np.ones_like(ids), np.zeros_like(ids)), strict=True)))[
            "logits"
        ],
        CAST: lambda ids: by_hand(cast, ids, automatic=False),
        AUTOMATIC: lambda ids: by_hand(plain, ids, automatic=True),
    }


def _rate(run: Run, ids: Ids) -> float:
    """Sequences per second; the first run of a shape is not counted."""
    run(ids)
    began, done = time.perf_counter(), 0
    while (spent := time.perf_counter() - began) < seconds(SECONDS) or not done:
        run(ids)
        done += len(ids)
    return done / max(spent, time.perf_counter() - began)


def _absent(why: str) -> Result:
    return Result(name=NAME, metrics={}, goals={}, notes=(f"no GPU here: {why}; nothing was measured",))
