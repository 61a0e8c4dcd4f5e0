"""Texts of 8 to 256 tokens, log-uniform: our batches against first-in-first-out ones, in the same engine, at equal bounds.

One engine, in this process, with the `small` encoder (int8), one lane of one thread for each core, and `CALLERS` callers that each
ask for one text after the other. Only the function that forms the next batch differs: `next_batch` regroups what waits by length;
`first_in_first_out` takes what came first until the batch is full. Both keep the same bounds of rows and padded tokens, share with
idle lanes alike and drop what expired.

Each of five interleaved rounds has every text of the same list answered, by the one and then by the other; throughput is texts over
the time until the last answer, so that neither gains by leaving long texts for later. The p99 of the time a caller waits is there to
show that nobody pays for it.
"""

import asyncio
import gc
import math
import os
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import uvloop
from prometheus_client import CollectorRegistry

from bench import encoders, rounds
from bench.client import quantile
from bench.findings import Findings
from bench.result import Result
from shared.bundle.manifest import MANIFEST_FILE, digest_of, parse_manifest
from shared.io import logs
from shared.io.clock import SystemClock
from shared.serving.answer import Request
from shared.serving.arrangement import Arrangement
from shared.serving.decide.batching import Batch, Budget, Drop, DropReason, Waiting, next_batch
from shared.serving.engine import Engine
from shared.serving.lanes.queue import Form
from shared.serving.metrics import EngineMetrics

SHORTEST, LONGEST = 8, 256
TEXTS, QUICK_TEXTS = 1500, 200
CALLERS = 64
TENANT, VARIANT = "bench", "cpu-int8"


class Took(NamedTuple):
    """Texts per second, and the p99 of a caller's wait in milliseconds."""

    rate: float
    p99: float


def first_in_first_out(waiting: Sequence[Waiting], budget: Budget, *, now: float, idle: int = 1) -> Batch:
    """What came first, until the next one does not fit."""
    dropped = tuple(
        Drop(id=entry.id, reason=DropReason.EXPIRED)
        for entry in waiting
        if entry.deadline is not None and entry.deadline <= now
    )
    gone = {drop.id for drop in dropped}
    live = sorted((entry for entry in waiting if entry.id not in gone), key=lambda entry: entry.id)
    rows = sum(entry.rows for entry in live)
    bound = min(budget.rows, -(-rows // idle)) if idle > 1 else budget.rows
    chosen: list[Waiting] = []
    longest = filled = 0
    for entry in live:
        stretched, more = max(longest, entry.tokens), filled + entry.rows
        if chosen and (more > bound or stretched * more > budget.tokens or entry.group != chosen[0].group):
            break
        chosen.append(entry)
        longest, filled = stretched, more
    return Batch(ids=tuple(entry.id for entry in chosen), dropped=dropped, padded=longest * filled)


def mixed_texts(count: int, seed: int = 1) -> list[str]:
    """Texts whose numbers of tokens are log-uniform."""
    drawn = np.random.default_rng(seed)
    lengths = np.exp(drawn.uniform(math.log(SHORTEST), math.log(LONGEST + 1), count)).astype(int)
    return [encoders.texts(1, tokens=int(length), seed=seed + i)[0] for i, length in enumerate(lengths)]


def run() -> Result:
    """All rounds in one engine."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run())


async def _run() -> Result:
    encoder = encoders.encoder("small")
    texts = mixed_texts(QUICK_TEXTS if rounds.is_quick() else TEXTS)
    cores = len(os.sched_getaffinity(0))
    log = logs.build("bench", level="error")
    engine = Engine(clock=SystemClock(), log=log, metrics=EngineMetrics(CollectorRegistry()))
    try:
        data = (encoder.bundle / MANIFEST_FILE).read_bytes()
        manifest = parse_manifest(data)
        arrangement = Arrangement(lanes=cores, threads=1)
        model = await engine.load(TENANT, manifest, digest_of(data), encoder.bundle, VARIANT, arrangement=arrangement)
        engine.activate(TENANT, {manifest.name: manifest.version})
        forms: dict[str, Form] = {"ours": next_batch, "fifo": first_in_first_out}
        found: dict[str, list[Took]] = {name: [] for name in forms}
        gc.freeze()
        await _all(engine, manifest.name, texts[: len(texts) // 4])
        for turn in range(rounds.rounds()):
            for name in sorted(forms, reverse=bool(turn % 2)):
                # The queue takes it when it is made, and the engine makes the queue: only a benchmark wants another.
                model.queue._form = forms[name]  # noqa: SLF001
                found[name].append(await _all(engine, manifest.name, texts))
    finally:
        await engine.close()
    findings = Findings()
    for name, each in found.items():
        findings.figure(f"{name}_texts_per_s", [took.rate for took in each])
        findings.figure(f"{name}_p99_ms", [took.p99 for took in each])
    ours, fifo = found["ours"], found["fifo"]
    findings.ratio("over_fifo", [took.rate for took in ours], [took.rate for took in fifo], goal=(">=", 1.3))
    findings.ratio("p99_over_fifo", [took.p99 for took in ours], [took.p99 for took in fifo])
    lengths = sorted(len(text) + 2 for text in texts)
    findings.notes.append(
        f"{len(texts)} texts of {lengths[0]} to {lengths[-1]} tokens, mean {sum(lengths) / len(lengths):.0f}; "
        f"{CALLERS} callers; {arrangement.lanes} lanes of one thread; {model.queue.budget}"
    )
    return findings.result("mixed_lengths")


async def _all(engine: Engine, model: str, texts: Sequence[str]) -> Took:
    """Have every text answered."""
    left = iter(enumerate(texts))
    waits: list[float] = []

    async def caller() -> None:
        for i, text in left:
            began = time.perf_counter()
            await engine.answer(Request(id=str(i), tenant=TENANT, model=model, texts=(text,)))
            waits.append(1000 * (time.perf_counter() - began))

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(CALLERS):
            group.create_task(caller())
    return Took(len(texts) / (time.perf_counter() - began), quantile(sorted(waits), 0.99))
