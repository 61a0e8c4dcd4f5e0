"""Builds what measures how models run on this device: for an agent that runs, and for a run by hand."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

from edge_agent.config import Settings
from edge_agent.control.arrangements import Arrangements
from edge_agent.control.loading import Version
from edge_agent.control.subjects import Subject, installed_here, measured, subject_of
from edge_agent.control.trials import Trials
from edge_agent.control.tuner import Surroundings, Tuner, details_of
from edge_agent.decide.variants import Device
from edge_agent.listening import TENANT
from edge_agent.parts import Core, device_of
from edge_agent.serving import disk
from edge_agent.telemetry.host import hardware, processor_used
from shared.io.clock import SystemClock
from shared.io.logs import Log
from shared.protocol.errors import Refusal, Refused
from shared.protocol.reported import Convergence, ModelState
from shared.serving.decide.tuned import Record
from shared.serving.decide.tuning import Progress
from shared.serving.trial.replay import runtime
from shared.serving.tuning.machine import machine_here
from shared.serving.tuning.records import Records
from shared.serving.tuning.turn import turn


async def arrangements_of(settings: Settings, log: Log) -> Arrangements:
    """What knows how versions run here."""
    machine = await asyncio.to_thread(machine_here)
    arrangements = Arrangements(Records(settings.state, log), machine, settings.wishes)
    await arrangements.refresh()
    return arrangements


def tuner_of(core: Core, changed: Callable[[], None]) -> Tuner:
    """What measures while nobody asks anything; `changed` is called when there is something new to report."""
    settings, standing = core.settings, core.standing

    async def served() -> Sequence[Subject]:
        listed = core.engine.models(standing.tenant or TENANT)
        generation = core.holder.generation
        if generation is None:
            return ()
        ready = {model.digest for model in listed if model.state is ModelState.READY}
        wanted = {model.digest: model for model in generation.models if model.digest in ready}
        found = await asyncio.to_thread(installed_here, settings.bundles, core.device)
        return [
            subject_of(
                each.manifest,
                each.digest,
                each.folders,
                core.device,
                wanted=wanted[each.digest].variant,
                limits=generation.limits,
            )._replace(told=wanted[each.digest].arrangement)
            for each in found
            if each.digest in wanted
        ]

    async def follow(subject: Subject) -> None:
        tenant = standing.tenant or TENANT
        for listed in core.engine.models(tenant):
            if listed.digest == subject.digest and (folder := subject.folders.get(listed.variant)) is not None:
                version = Version(subject.manifest, subject.digest, folder, listed.variant)
                await core.loader.follow(tenant, version, told=subject.told, limits=subject.limits)

    def converging() -> bool:
        report = standing.report()
        return report is not None and report.convergence is Convergence.CONVERGING

    tuner = Tuner(
        core.arrangements,
        core.activity,
        Surroundings(served, follow, converging, processor_used),
        measures=settings.tunes_itself,
        after_s=settings.tune_after_idle_s,
        most_used=settings.tune_max_load,
        memory_bytes=settings.trial_memory_bytes,
        changed=changed,
        clock=core.clock,
        log=core.log,
    )
    standing.running = lambda: details_of(core.arrangements, tuner)
    return tuner


async def tune_by_hand(
    settings: Settings, log: Log, what: Sequence[str], told: Callable[[str, Progress], None]
) -> list[Record]:
    """Measure versions now, and remember what was found in the state folder; the agent follows it from the next load on.

    Args:
        settings: of the agent.
        log: where to complain.
        what: folders with a bundle, `.onnx` files, or names of installed models; every installed one where there is none.
        told: called with a version and what is known of it, as that becomes more.

    Raises:
        Refused: nothing of that name, or another run is under way on this machine.
        Corrupt: a version cannot be read.
        Transient: no process can be started here and now.

    """
    arrangements, clock = await arrangements_of(settings, log), SystemClock()
    device = device_of(settings, await asyncio.to_thread(hardware))
    trials = Trials(None, limits=settings.trial_limits, runtime=runtime(), log=log)
    records: list[Record] = []
    with turn() as ours:
        if not ours:
            raise Refused("another tuning run is under way on this machine", kind=Refusal.CONFLICT, field="PATH")
        async for subject in _subjects(what, settings.bundles, device, trials):
            record = await measured(
                subject,
                arrangements,
                memory_bytes=settings.trial_memory_bytes,
                progress=Progress(),
                keep=lambda progress, label=subject.label: told(label, progress),  # type: ignore[misc]
                now=clock.wall,
            )
            await asyncio.to_thread(arrangements.records.add, record)
            records.append(record)
    return records


async def _subjects(what: Sequence[str], bundles: Path, device: Device, trials: Trials) -> AsyncIterator[Subject]:
    installed = await asyncio.to_thread(installed_here, bundles, device)
    if not what and not installed:
        raise Refused(
            "no model is installed here", kind=Refusal.NOT_FOUND, field="PATH", allowed="the path of a bundle"
        )
    for subject in installed if not what else ():
        yield subject
    for name in what:
        named = [each for each in installed if name in (each.manifest.name, each.label)]
        for subject in named:
            yield subject
        if named:
            continue
        if not await asyncio.to_thread(Path(name).exists):
            allowed = ", ".join(each.label for each in installed) or "no model is installed here"
            raise Refused(
                "neither a path nor a model", kind=Refusal.NOT_FOUND, field="PATH", value=name, allowed=allowed
            )
        async with disk.measurable(Path(name), device, trials) as subject:
            yield subject
