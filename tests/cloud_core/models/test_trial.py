import asyncio
import os
import time
from pathlib import Path

import pytest
import structlog

from cloud_core.models.publish import build_bundle
from cloud_core.models.shipped import shipped_models
from cloud_core.models.trial import AT_ONCE, PREFIX, STALE_S, VersionTrials, isolation_of, try_here
from shared.bundle.manifest import Variant, canonical, digest_of, parse_manifest
from shared.bundle.store import ChunkStore
from shared.io.clock import SystemClock
from shared.protocol.errors import Refusal, Refused, Transient, Unavailable
from shared.protocol.reported import Isolation
from shared.serving.trial.verdict import Died, Passed, TrialLimits
from tests.hostile import programs
from tests.hostile.corpus import bundle

LOG = structlog.get_logger()


class Scripted:
    """Verdicts by variant, and what was asked; waits at `gate` where there is one."""

    def __init__(self, **verdicts):
        self.verdicts = verdicts
        self.asked = []
        self.now = self.most = 0
        self.gate = None

    async def __call__(self, request):
        self.asked.append(request.variant)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            assert list(Path(request.folder).iterdir())
            if self.gate is not None:
                await self.gate.wait()
            return self.verdicts.get(request.variant, Passed(isolation=Isolation.SECCOMP))
        finally:
            self.now -= 1


def trials(folder, trial, **more):
    limits = TrialLimits(memory_bytes=2 << 30, seconds=60.0)
    return VersionTrials(
        folder / "trials", limits=limits, isolation=Isolation.NONE, clock=SystemClock(), log=LOG, trial=trial, **more
    )


def stored(folder, made):
    store = ChunkStore(folder / "artifacts")
    for digest, data in made.pieces().items():
        store.put(digest, data)
    return made.manifest, parse_manifest(made.manifest), store


def variants(*names, **more):
    return tuple(Variant(name=name, runtime="onnx", precision="fp32", files=("model.onnx",), **more) for name in names)


def test_a_shipped_model_passes_for_real_and_once(tmp_path):
    store = ChunkStore(tmp_path / "artifacts")
    manifest, data = build_bundle(next(iter(shipped_models())), store)

    async def main():
        gate = trials(tmp_path, try_here)
        assert (await gate.passed(data, manifest, store)).unrun == ()
        began = time.monotonic()
        await gate.passed(data, manifest, ChunkStore(tmp_path / "empty"))
        assert time.monotonic() - began < 1
        assert await isolation_of(LOG) in set(Isolation)

    asyncio.run(main())
    assert list((tmp_path / "trials").iterdir()) == []


def test_every_variant_is_tried_and_what_was_not_run_is_told(tmp_path):
    scripted = Scripted(b=Passed(isolation=Isolation.NONE, unrun="b was not run"))
    made = stored(tmp_path, bundle("m", programs.good(), variants=variants("a", "b", "c")))
    assert asyncio.run(trials(tmp_path, scripted).passed(*made)).unrun == ("b was not run",)
    assert sorted(scripted.asked) == ["a", "b", "c"]
    assert scripted.most <= AT_ONCE


def test_the_refusal_names_the_variant_the_code_and_the_place(tmp_path):
    died = Died(isolation=Isolation.NONE, code="too-slow", message="it takes longer than 60 s")
    made = stored(tmp_path, bundle("m", programs.good(), variants=variants("a", "b")))
    for trial, field in ((Scripted(b=died), "variants[1]"), (try_here, "model.onnx:graph.initializer")):
        if trial is try_here:
            made = stored(tmp_path, bundle("m", programs.outside("x")))
        with pytest.raises(Refused) as caught:
            asyncio.run(trials(tmp_path, trial).passed(*made))
        error = caught.value
        assert (error.kind, error.field) == (Refusal.UNPROCESSABLE, field)
        assert error.code == ("too-slow" if field == "variants[1]" else "external-data")
        assert error.message.count(field) <= 1
    assert list((tmp_path / "trials").iterdir()) == []


def test_what_failed_is_tried_again(tmp_path):
    died = Died(isolation=Isolation.NONE, code="too-slow", message="slow")
    scripted = Scripted(cpu=died)
    made = stored(tmp_path, bundle("m", programs.good()))

    async def main():
        gate = trials(tmp_path, scripted)
        for _ in range(2):
            with pytest.raises(Refused):
                await gate.passed(*made)
        scripted.verdicts.clear()
        await gate.passed(*made)
        await gate.passed(*made)

    asyncio.run(main())
    assert len(scripted.asked) == 3


def test_a_few_at_a_time_and_the_rest_wait(tmp_path):
    async def main():
        scripted = Scripted()
        scripted.gate = asyncio.Event()
        gate = trials(tmp_path, scripted)
        made = [stored(tmp_path, bundle(f"m{i}", programs.good())) for i in range(5)]
        tasks = [asyncio.create_task(gate.passed(*one)) for one in made]
        while scripted.now < AT_ONCE:
            await asyncio.sleep(0.01)
        for _ in range(20):
            await asyncio.sleep(0.01)
            assert scripted.now == AT_ONCE
        # One that is given up leaves its place to the next.
        tasks[0].cancel()
        while len(scripted.asked) < AT_ONCE + 1:
            await asyncio.sleep(0.01)
        scripted.gate.set()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert [isinstance(one, asyncio.CancelledError) for one in done] == [True, False, False, False, False]
        assert scripted.most == AT_ONCE

    asyncio.run(main())
    assert list((tmp_path / "trials").iterdir()) == []


def test_what_cannot_be_tried_now_is_no_verdict(tmp_path):
    async def broken(_request):
        raise Transient("no processes left", why=Unavailable.NOT_READY)

    made = stored(tmp_path, bundle("m", programs.good()))
    with pytest.raises(Transient):
        asyncio.run(trials(tmp_path, broken).passed(*made))
    assert list((tmp_path / "trials").iterdir()) == []


def test_leftovers_of_a_process_that_died_go(tmp_path):
    old, young = (tmp_path / "trials" / f"{PREFIX}{name}" for name in ("old", "young"))
    for folder in (old, young):
        (folder / "inside").mkdir(parents=True)
    long_ago = time.time() - STALE_S - 60
    os.utime(old, (long_ago, long_ago))
    asyncio.run(trials(tmp_path, Scripted()).passed(*stored(tmp_path, bundle("m", programs.good()))))
    assert (old.exists(), young.exists()) == (False, True)


def test_a_runtime_nobody_has_is_refused_and_one_a_trial_has_not_is_said(tmp_path):
    magic = stored(tmp_path, bundle("m", programs.good(), variants=variants("cpu")))
    data = magic[0].replace(b'"runtime":"onnx"', b'"runtime":"magic"')
    with pytest.raises(Refused) as caught:
        asyncio.run(trials(tmp_path, try_here).passed(data, parse_manifest(data), magic[2]))
    assert (caught.value.code, caught.value.field) == ("unknown-runtime", "variants[0].runtime")
    from shared.bundle.manifest import Requirements

    cuda = variants("cuda", requirements=Requirements(providers=("CUDAExecutionProvider",)))
    made = stored(tmp_path, bundle("m", programs.good(), variants=cuda))
    (said,) = asyncio.run(trials(tmp_path, try_here).passed(*made)).unrun
    assert "CUDAExecutionProvider" in said
    assert digest_of(canonical(made[1])) == digest_of(made[0])
