"""A local replica: converges on what the registry wants served, and says in the registry what it serves.

Invariants:

* level-triggered: every pass reads what is wanted now and does what is missing; nothing is remembered of passes before but when a
  version that failed may be tried again;
* a database that is away changes nothing of what is served;
* what is unloaded is drained first; bundles nobody wants any more are removed from disk.
"""

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncEngine

from cloud_core.decide import restart as backoff
from cloud_core.decide.wanted import ANYWHERE, Version, newest, variant_for, wanted
from cloud_core.replicas.runtimes import suited
from cloud_core.store import replicas, serving
from cloud_core.store.chunk_stores import ChunksOf
from cloud_core.store.database import read, write
from shared.bundle.install import collect_bundles, install
from shared.bundle.manifest import TaskKind, Variant, parse_manifest
from shared.io.clock import Clock
from shared.io.logs import Log
from shared.protocol.errors import Corrupt, Refused, TidelineError, Transient
from shared.protocol.reported import ModelState
from shared.serving.arrangement import ONNXRUNTIME, OPENVINO, Arrangement
from shared.serving.engine import Engine
from shared.serving.trial.run import Trial, try_bundle
from shared.serving.trial.verdict import Passed, TrialRequest

CONVERGE_S = 1.0
REPORT_S = 1.5
RETRY = backoff.Limits(first=2.0, longest=60.0, stable=float("inf"))
"""A version that cannot be loaded is tried again: its chunks may still be coming, or memory may be free later."""


class Place(NamedTuple):
    """The replica's name and address, its folder for bundles, and tenants' chunks."""

    name: str
    url: str
    bundles: Path
    artifacts: ChunksOf


class Preference(NamedTuple):
    """The variant preferred, how models run here, and the runtimes and providers this replica has."""

    variant: str
    arrangement: Arrangement
    offers: frozenset[str] = ANYWHERE


class _Failure(NamedTuple):
    failures: int
    again_at: float


class LocalReplica:
    """Owner of what this process serves; `converge` and `report` are tasks of its program."""

    def __init__(
        self,
        engine: Engine,
        database: AsyncEngine,
        *,
        place: Place,
        preference: Preference,
        log: Log,
        clock: Clock,
        draw: Callable[[], float],
        trial: Trial = try_bundle,
    ) -> None:
        self._engine = engine
        self._database = database
        self._place = place
        self._preference = preference
        self._log = log
        self._clock = clock
        self._draw = draw
        self._trial = trial
        self._started_at = clock.wall()
        self._pending: dict[Version, ModelState] = {}
        self._failed: dict[Version, _Failure] = {}
        self._news = asyncio.Event()
        self._away = False
        self.has_converged = False

    async def converge(self) -> None:
        """Converge for ever."""
        while True:
            with contextlib.suppress(Transient):
                await self.converge_once()
            await asyncio.sleep(CONVERGE_S)

    async def report(self) -> None:
        """Say what is served, every `REPORT_S` seconds and at once when it changes, for ever."""
        while True:
            self._news.clear()
            try:
                await self.report_once()
            except Transient as error:
                self._database_is(away=error)
            else:
                self._database_is(away=None)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REPORT_S):
                    await self._news.wait()

    async def leave(self) -> None:
        """Say that this replica is gone."""
        async with write(self._database) as connection:
            await replicas.remove(connection, self._place.name, now=self._clock.wall())

    async def converge_once(self) -> None:
        """One pass.

        Raises:
            Transient: the database does not say what is wanted.

        """
        async with read(self._database) as connection:
            versions = wanted(await serving.published(connection), await serving.named(connection))
            missing = [version for version in versions if not self._is_served(version)]
            manifests = await serving.manifests(connection, missing)
        self._failed = {version: failure for version, failure in self._failed.items() if version in versions}
        for version in missing:
            if self._may_try(version):
                await self._serve(version, manifests[version.tenant, version.digest])
                self._activate(versions)
        # Nothing goes before requests that name no version were given another.
        self._activate(versions)
        gone = self._gone(versions)
        for key in gone:
            await self._engine.unload(*key)
        if gone:
            keep = {(listed.digest, listed.variant) for listed in self._engine.models()}
            await asyncio.to_thread(collect_bundles, self._place.bundles, keep)
        if gone or not self.has_converged:
            self.has_converged = True
            self._news.set()

    async def report_once(self) -> None:
        """Write this replica's row.

        Raises:
            Transient: the database does not take it.

        """
        async with write(self._database) as connection:
            await replicas.report(
                connection,
                self._place.name,
                url=self._place.url,
                kind="local",
                models=self.served(),
                started_at=self._started_at,
                now=self._clock.wall(),
            )

    def served(self) -> list[replicas.Served]:
        """Every version this replica has, gets or could not get, in a fixed order."""
        found = {
            (listed.tenant, listed.name, listed.version): replicas.Served(
                tenant=listed.tenant,
                name=listed.name,
                version=listed.version,
                variant=listed.variant,
                state=listed.state.value,
            )
            for listed in self._engine.models()
        }
        waiting = dict.fromkeys(self._failed, ModelState.FAILED) | self._pending
        for version, state in waiting.items():
            key = (version.tenant, version.model, version.version)
            row = replicas.Served(tenant=version.tenant, name=version.model, version=version.version, state=state.value)
            found.setdefault(key, row)
        return [found[key] for key in sorted(found)]

    async def _serve(self, version: Version, manifest_text: str) -> None:
        """Install and load one version; what fails is logged, reported and tried again later."""
        data = manifest_text.encode()
        try:
            manifest = parse_manifest(data)
            program = variant_for(manifest.variants, self._preference.variant, self._preference.offers)
            variant = program.name
            self._enter(version, ModelState.FETCHING)
            store = self._place.artifacts(version.tenant)
            folder = await asyncio.to_thread(install, data, variant, store, self._place.bundles)
            self._enter(version, ModelState.LOADING)
            arrangement = await self._arranged(version, manifest.task, program, folder)
            await self._engine.load(version.tenant, manifest, version.digest, folder, variant, arrangement=arrangement)
        except (Refused, Corrupt, Transient) as error:
            self._fail(version, error)
        else:
            self._failed.pop(version, None)
        finally:
            self._pending.pop(version, None)
            self._news.set()

    async def _arranged(self, version: Version, task: TaskKind, program: Variant, folder: Path) -> Arrangement:
        """How the version is run here; with ONNX Runtime where a trial shows that it cannot be as was asked for.

        With ONNX Runtime it is not tried in a process of its own first, as a device does: a version exists only once every
        variant of it passed the control plane's gate (`cloud_core.models.trial`): run there, or inspected where it cannot be run.
        """
        exact = task is TaskKind.TEXT_GENERATION
        found = suited(self._preference.arrangement, program, exact=exact)
        if found.runtime != OPENVINO:
            return found
        verdict = await self._trial(
            TrialRequest(
                folder=str(folder),
                variant=program.name,
                threads=found.threads,
                runtime=found.runtime,
                precision=found.precision,
            )
        )
        if isinstance(verdict, Passed):
            return found
        self._log.warning(
            "ONNX Runtime instead of OpenVINO",
            tenant=version.tenant,
            model=version.model,
            version=version.version,
            code=verdict.code,
            error=verdict.message,
        )
        return suited(replace(found, runtime=ONNXRUNTIME), program, exact=exact)

    def _fail(self, version: Version, error: TidelineError) -> None:
        before = self._failed.get(version, _Failure(0, 0.0)).failures
        decision = backoff.restart(before, ran_for=0.0, u=self._draw(), limits=RETRY)
        # At least the first delay: what just failed is not tried again at once, however the draw fell.
        delay = max(RETRY.first, decision.delay)
        self._failed[version] = _Failure(decision.failures, self._clock.monotonic() + delay)
        self._log.warning(
            "version cannot be served",
            tenant=version.tenant,
            model=version.model,
            version=version.version,
            code=error.code,
            error=error.message,
            again_in=round(delay, 1),
        )

    def _enter(self, version: Version, state: ModelState) -> None:
        self._pending[version] = state
        self._news.set()

    def _is_served(self, version: Version) -> bool:
        return any(
            listed.state is ModelState.READY
            and (listed.name, listed.version, listed.digest) == (version.model, version.version, version.digest)
            for listed in self._engine.models(version.tenant)
        )

    def _gone(self, versions: tuple[Version, ...]) -> list[tuple[str, str, str]]:
        present = {(version.tenant, version.model, version.version) for version in versions}
        loaded = [(listed.tenant, listed.name, listed.version) for listed in self._engine.models()]
        return [key for key in loaded if key not in present]

    def _may_try(self, version: Version) -> bool:
        failure = self._failed.get(version)
        return failure is None or self._clock.monotonic() >= failure.again_at

    def _activate(self, versions: tuple[Version, ...]) -> None:
        """Requests that name no version get the newest wanted one that is ready."""
        ready: dict[str, dict[str, list[str]]] = {}
        for version in versions:
            if self._is_served(version):
                ready.setdefault(version.tenant, {}).setdefault(version.model, []).append(version.version)
        for tenant, models in ready.items():
            active = {name: newest(found) for name, found in models.items()}
            if self._engine.active(tenant) != active:
                self._engine.activate(tenant, active)

    def _database_is(self, *, away: Transient | None) -> None:
        if away is not None and not self._away:
            self._log.warning("the registry cannot be written; serving on", error=away.message)
        if away is None and self._away:
            self._log.info("the registry can be written again")
        self._away = away is not None
