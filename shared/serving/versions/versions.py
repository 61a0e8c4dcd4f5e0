"""The model versions loaded in this process: loading, warming, activating, draining, unloading.

Invariants:

* a version is keyed by (tenant, name, version); loading one never disturbs those that run;
* one map per tenant, swapped whole, says which version unversioned requests get, and it names ready versions only;
* a version that failed stays listed with its reason until it is loaded again or unloaded.
"""

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType

from shared.bundle.manifest import Manifest, Variant
from shared.io.clock import Clock
from shared.io.logs import Log
from shared.io.processor import cores as cores_here
from shared.protocol.errors import Refusal, Refused, TidelineError
from shared.protocol.reported import ModelState
from shared.serving.admission.entrance import Entrance
from shared.serving.answer import Where
from shared.serving.arrangement import Arrangement
from shared.serving.catalog import Listed
from shared.serving.decide.admission import Admitted, Ask, Limits
from shared.serving.decide.batching import Budget
from shared.serving.decide.residency import Keep, Key
from shared.serving.lanes.cores import Cores
from shared.serving.lanes.worker import explained
from shared.serving.memory.residency import Residency
from shared.serving.memory.room import Room
from shared.serving.metrics import EngineMetrics
from shared.serving.sessions.open import Sessions, open_session
from shared.serving.tasks.choose import Tasks, task_for
from shared.serving.tasks.rounded import rounded
from shared.serving.versions.loaded import LoadedModel
from shared.serving.versions.rearranging import rearrange


class Versions:
    """Owner of what is loaded; loop's thread only."""

    def __init__(
        self,
        *,
        clock: Clock,
        log: Log,
        metrics: EngineMetrics,
        limits: Limits = Limits(),  # noqa: B008 - a frozen value
        budget: Budget = Budget(),  # noqa: B008 - a frozen value
        where: Where = Where.LOCAL,
        sessions: Sessions = open_session,
        tasks: Tasks = task_for,
        prepare_threads: int = 2,
        cores: Cores | None = None,
        room: Room | None = None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """`limits` bound what waits and runs over all models; `where` is what answers say of themselves.

        `cores` are shared by all models; None for those this process may run on. `room` is what their programs may take of
        memory; None for no bound. `draw`, from [0, 1), spreads those who are asked to come back.
        """
        self.metrics = metrics
        self._clock = clock
        self._log = log
        self._budget = budget
        self._where = where
        self._sessions = sessions
        self._tasks = tasks
        self._cores = cores or Cores(cores_here())
        self._pool = ThreadPoolExecutor(prepare_threads, thread_name_prefix="prepare")
        self.room = room or Room(clock=clock, log=log, metrics=metrics.residency)
        self.residency = Residency(self.room, clock=clock, log=log)
        self._models: dict[Key, LoadedModel] = {}
        self._active: dict[str, Mapping[str, str]] = {}
        self._loading: set[Key] = set()
        self._broken: dict[Key, Listed] = {}
        self.entrance = Entrance(
            self._models, self.residency, active=self.active, limits=limits, clock=clock, draw=draw
        )

    async def load(
        self,
        tenant: str,
        manifest: Manifest,
        digest: str,
        folder: Path,
        variant: str,
        *,
        arrangement: Arrangement = Arrangement(),  # noqa: B008 - a frozen value
        loaded_as: str | None = None,
    ) -> LoadedModel:
        """Load and warm a version beside those that run; it answers versioned requests once this returns.

        Repeating it for what is loaded already changes nothing. A version that failed stays listed, with its reason,
        until it is loaded again or unloaded.

        Args:
            tenant: whose model it is.
            manifest: of the bundle.
            digest: of the manifest's bytes.
            folder: where the bundle is installed.
            variant: which of the manifest's variants to run.
            arrangement: how it is to run on this machine.
            loaded_as: the name requests use, where it is not the manifest's.

        Raises:
            Corrupt: it cannot be loaded, or its golden set differs.
            Refused: an unknown variant or task, or the version is loaded already with another digest or variant.

        """
        name = loaded_as or manifest.name
        key = (tenant, name, manifest.version)
        program = manifest.variant(variant)
        before = self._models.get(key)
        if before is not None and before.state is not ModelState.FAILED:
            if (before.digest, before.variant) == (digest, variant) and before.state is ModelState.READY:
                return before
            raise Refused(
                "the version is loaded already",
                kind=Refusal.CONFLICT,
                field="version",
                value=f"{name}@{manifest.version}/{before.variant} ({before.state.value})",
                allowed="unload it first",
            )
        if key in self._loading:
            raise Refused(
                "the version is being loaded", kind=Refusal.CONFLICT, field="version", value=f"{name}@{key[2]}"
            )
        self._loading.add(key)
        try:
            if before is not None:
                await before.stop()
                self.residency.forget(before)
                del self._models[key]
            return await self._bring_up(
                key, manifest, digest=digest, folder=folder, program=program, arrangement=arrangement
            )
        finally:
            self._loading.discard(key)

    async def _bring_up(
        self, key: Key, manifest: Manifest, *, digest: str, folder: Path, program: Variant, arrangement: Arrangement
    ) -> LoadedModel:
        tenant, name, _ = key
        variant = program.name
        self._broken.pop(key, None)
        try:
            model = await self._made(key, manifest, folder, digest=digest, program=program, arrangement=arrangement)
        except TidelineError as error:
            self._broken[key] = Listed(
                tenant=tenant,
                name=name,
                version=manifest.version,
                task=manifest.task,
                state=ModelState.FAILED,
                variant=variant,
                digest=digest,
                reason=explained(error),
            )
            raise
        self._models[key] = self.entrance.watched(model, self.metrics)
        try:
            await self.residency.first(model)
            model.enter(ModelState.WARMING)
            await model.warm(folder)
        except BaseException as error:
            model.enter(ModelState.FAILED, explained(error))
            model.queue.close()
            model.program.put_away()
            self.residency.forget(model)
            raise
        model.enter(ModelState.READY)
        self.residency.ready(model)
        self._log.info("model ready", model=name, version=manifest.version, variant=variant, tenant=tenant)
        return model

    async def _made(
        self, key: Key, manifest: Manifest, folder: Path, *, digest: str, program: Variant, arrangement: Arrangement
    ) -> LoadedModel:
        before = self.room.resident()
        task = await asyncio.to_thread(self._tasks, manifest, folder)
        # A tokenizer stays while its version is loaded, whether or not its program is in memory.
        self.room.base += max(0, self.room.resident() - before)
        return LoadedModel(
            tenant=key[0],
            name=key[1],
            manifest=manifest,
            digest=digest,
            variant=program.name,
            open=lambda how: self._sessions(folder / program.files[0], program, how),
            folder=folder,
            task=rounded(task, manifest, arrangement),
            budget=self._budget,
            arrangement=arrangement,
            cores=self._cores,
            where=self._where,
            clock=self._clock,
            log=self._log,
            metrics=self.metrics,
            pool=self._pool,
        )

    async def rearrange(self, tenant: str, name: str, version: str, arrangement: Arrangement, folder: Path) -> bool:
        """Run a version in another way from now on, without a gap; whether there was such a version, and room for that.

        Raises:
            Refused, Corrupt: it cannot run like this; it runs as it did.

        """
        model = self._models.get((tenant, name, version))
        return model is not None and await rearrange(self.room, model, arrangement, folder)

    async def check_golden(self, model: LoadedModel, folder: Path) -> list[str]:
        """What a loaded version answers differently from its golden set; it is brought into memory for that."""
        with model.queue.reserve(Admitted(ask=Ask(entries=0, tokens=0), predicted=0.0)) as stay:
            await self.residency.enter(model, stay)
            return await model.check_golden(folder)

    def activate(self, tenant: str, versions: Mapping[str, str]) -> None:
        """Swap the whole map (name -> version) of what `tenant`'s unversioned requests get, at once.

        Raises:
            Refused: names a version that is not ready; nothing changes then.

        """
        for name, version in versions.items():
            model = self._models.get((tenant, name, version))
            if model is None or model.state is not ModelState.READY:
                raise Refused(
                    "the version is not ready",
                    kind=Refusal.CONFLICT,
                    field=f"active.{name}",
                    value=version,
                    allowed=", ".join(self._ready(tenant, name)) or "none is ready",
                )
        self._active[tenant] = MappingProxyType(dict(versions))

    def active(self, tenant: str) -> Mapping[str, str]:
        """The version by name that unversioned requests get."""
        return self._active.get(tenant, MappingProxyType({}))

    def hold(self, tenant: str, keeps: Mapping[tuple[str, str], Keep]) -> None:
        """How firmly versions of `tenant` are held in memory, by name and version; all others are held as any."""
        self.residency.keep(tenant, keeps)

    def bound(self, memory_bytes: int | None) -> None:
        """From now on programs may take `memory_bytes` at most, or the process's own bound where that is less."""
        self.residency.bound(memory_bytes)

    async def unload(self, tenant: str, name: str, version: str, *, patience: float = 10.0) -> None:
        """Take no new request, let those that wait finish for at most `patience` seconds, then free everything.

        Harmless where it is not loaded.
        """
        key = (tenant, name, version)
        self._broken.pop(key, None)
        model = self._models.get(key)
        if model is None or model.state is ModelState.DRAINING:
            return
        active = self.active(tenant)
        if active.get(name) == version:
            self._active[tenant] = MappingProxyType({n: v for n, v in active.items() if n != name})
        model.enter(ModelState.DRAINING)
        try:
            if not model.queue.is_idle:
                await asyncio.wait_for(model.queue.idle(), patience)
        except TimeoutError:
            self._log.warning("model did not drain", model=name, version=version, seconds=patience)
        if not await model.stop():
            self._log.warning("model thread did not end", model=name, version=version)
        self.residency.forget(model)
        del self._models[key]
        self._log.info("model unloaded", model=name, version=version, tenant=tenant)

    async def close(self) -> None:
        """Unload everything at once."""
        await asyncio.gather(*(self.unload(*key, patience=0.0) for key in tuple(self._models)))
        await self.residency.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def models(self, tenant: str | None = None) -> Sequence[Listed]:
        """Every loaded version of `tenant`, or of all tenants."""
        listed = [
            model.listed(active=self.active(model.tenant).get(model.name) == model.version)
            for key, model in self._models.items()
            if tenant is None or key[0] == tenant
        ]
        broken = [model for key, model in self._broken.items() if tenant is None or key[0] == tenant]
        return sorted(listed + broken, key=lambda model: (model.tenant, model.name, model.version))

    def _ready(self, tenant: str, name: str) -> list[str]:
        return [
            model.version
            for (owner, named, _), model in sorted(self._models.items())
            if (owner, named) == (tenant, name) and model.state is ModelState.READY
        ]
