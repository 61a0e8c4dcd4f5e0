"""The model versions loaded in this process: loading, warming, activating, draining, unloading.

Invariants:

* a version is keyed by (tenant, name, version); loading one never disturbs those that run;
* one map per tenant, swapped whole, says which version unversioned requests get, and it names ready versions only;
* a version that failed stays listed with its reason until it is loaded again or unloaded.
"""

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType

import onnxruntime

from shared.bundle.manifest import Manifest, Variant
from shared.io.clock import Clock
from shared.io.logs import Log
from shared.protocol.errors import Refusal, Refused, TidelineError
from shared.protocol.reported import ModelState
from shared.serving.answer import Where
from shared.serving.catalog import Listed
from shared.serving.decide.admission import Limits
from shared.serving.decide.batching import Budget
from shared.serving.loaded import LoadedModel, Sessions, Tasks, explained
from shared.serving.metrics import EngineMetrics
from shared.serving.sessions.onnx import CPU, OnnxSession
from shared.serving.sessions.session import Session
from shared.serving.tasks.choose import task_for

Key = tuple[str, str, str]
"""Tenant, name, version."""


def open_session(path: Path, variant: Variant, threads: int) -> Session:
    """The session of a program file.

    Raises:
        Refused: a runtime, or an execution provider of ONNX Runtime, that is not here.

    """
    if variant.runtime not in ("onnx", "onnxruntime"):
        raise Refused(
            "unknown runtime", kind=Refusal.UNSUPPORTED, field="runtime", value=variant.runtime, allowed="onnx"
        )
    wanted = variant.requirements.providers
    available = onnxruntime.get_available_providers()
    if missing := [name for name in wanted if name not in available]:
        # ONNX Runtime would take the processor without a word.
        raise Refused(
            "no such execution provider here",
            kind=Refusal.UNSUPPORTED,
            field="requirements.providers",
            value=", ".join(missing),
            allowed=", ".join(available),
        )
    return OnnxSession(path, threads=threads, providers=tuple(dict.fromkeys((*wanted, *CPU))))


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
    ) -> None:
        """`limits` bound what waits and runs over all models; `where` is what answers say of themselves."""
        self.metrics = metrics
        self._clock = clock
        self._log = log
        self._limits = limits
        self._budget = budget
        self._where = where
        self._sessions = sessions
        self._tasks = tasks
        self._pool = ThreadPoolExecutor(prepare_threads, thread_name_prefix="prepare")
        self._models: dict[Key, LoadedModel] = {}
        self._active: dict[str, Mapping[str, str]] = {}
        self._loading: set[Key] = set()
        self._broken: dict[Key, Listed] = {}

    async def load(
        self,
        tenant: str,
        manifest: Manifest,
        digest: str,
        folder: Path,
        variant: str,
        *,
        threads: int = 1,
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
            threads: cores one run may use.
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
                del self._models[key]
            return await self._bring_up(key, manifest, digest=digest, folder=folder, program=program, threads=threads)
        finally:
            self._loading.discard(key)

    async def _bring_up(
        self, key: Key, manifest: Manifest, *, digest: str, folder: Path, program: Variant, threads: int
    ) -> LoadedModel:
        tenant, name, _ = key
        variant = program.name
        self._broken.pop(key, None)
        try:
            session = self._sessions(folder / program.files[0], program, threads)
            task = await asyncio.to_thread(self._tasks, manifest, folder)
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
        model = LoadedModel(
            tenant=tenant,
            name=name,
            manifest=manifest,
            digest=digest,
            variant=variant,
            session=session,
            task=task,
            budget=self._budget,
            where=self._where,
            clock=self._clock,
            log=self._log,
            metrics=self.metrics,
            pool=self._pool,
        )
        self._models[key] = model
        try:
            await model.start()
            model.enter(ModelState.WARMING)
            await model.warm(folder)
        except BaseException as error:
            model.enter(ModelState.FAILED, explained(error))
            model.queue.close()
            raise
        model.enter(ModelState.READY)
        self._log.info("model ready", model=name, version=manifest.version, variant=variant, tenant=tenant)
        return model

    async def check_golden(self, model: LoadedModel, folder: Path) -> list[str]:
        """What a loaded version answers differently from its golden set."""
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
        del self._models[key]
        self._log.info("model unloaded", model=name, version=version, tenant=tenant)

    async def close(self) -> None:
        """Unload everything at once."""
        await asyncio.gather(*(self.unload(*key, patience=0.0) for key in tuple(self._models)))
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
