"""What the gateway can answer with: published versions, each as ready as the readiest replica that serves it.

The one owner of that list; rebuilt when what the database says changes, read by every face.
"""

from collections.abc import Mapping, Sequence

import msgspec

from cloud_core.decide.wanted import Version, newest
from cloud_core.gateway.fleet import Fleet
from shared.bundle.manifest import Manifest, TaskKind, parse_manifest
from shared.protocol.errors import Refused
from shared.protocol.reported import ModelState
from shared.serving.catalog import Duration, Listed, Statistics

_RANK = (
    ModelState.READY,
    ModelState.WARMING,
    ModelState.LOADING,
    ModelState.VERIFYING,
    ModelState.FETCHING,
    ModelState.DRAINING,
    ModelState.FAILED,
)
"""The readiest replica speaks for a version."""


class GatewayCatalog:
    """Implements `shared.serving.catalog.Catalog` over the fleet."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._versions: tuple[Version, ...] = ()
        self._manifests: dict[tuple[str, str], Manifest | None] = {}
        self._listed: dict[str, tuple[Listed, ...]] = {}
        self._statistics: dict[tuple[str, str, str], Statistics] = {}
        self._seen: tuple[object, object] = ((), ())

    def unknown(self, versions: Sequence[Version]) -> list[Version]:
        """Versions whose manifests were not seen yet."""
        return [each for each in versions if (each.tenant, each.digest) not in self._manifests]

    def observe(self, versions: Sequence[Version], manifests: Mapping[tuple[str, str], str]) -> None:
        """Take in what is published, with the manifests that were `unknown`, and what the fleet serves now."""
        self._versions = tuple(versions)
        fleet = tuple(
            (name, member.row.models, self._fleet.is_live(name)) for name, member in self._fleet.members.items()
        )
        if (self._versions, fleet) == self._seen:
            return
        self._seen = (self._versions, fleet)
        known = {(each.tenant, each.digest) for each in versions}
        self._manifests = {key: value for key, value in self._manifests.items() if key in known}
        self._manifests |= {key: _parsed(text) for key, text in manifests.items() if key in known}
        listed: dict[str, list[Listed]] = {}
        for (tenant, model), group in self._grouped().items():
            each = [self._listed_as(version) for version in group]
            ready = [one.version for one in each if one.state is ModelState.READY]
            active = newest(ready or [one.version for one in each])
            listed.setdefault(tenant, []).extend(
                msgspec.structs.replace(one, active=one.version == active) for one in each if one.name == model
            )
        self._listed = {tenant: tuple(each) for tenant, each in listed.items()}
        present = {(each.tenant, each.model, each.version) for each in versions}
        self._statistics = {key: value for key, value in self._statistics.items() if key in present}

    def models(self, tenant: str | None = None) -> Sequence[Listed]:
        """Every published version for `tenant`; None for all tenants."""
        if tenant is not None:
            return self._listed.get(tenant, ())
        return tuple(each for listed in self._listed.values() for each in listed)

    def statistics(self, tenant: str, name: str, version: str) -> Statistics:
        """Counters of one version over all replicas, as this gateway saw them."""
        return self._statistics.get((tenant, name, version), Statistics())

    def count(self, listed: Listed, *, items: int, seconds: float, ok: bool, at: float) -> None:
        """One request of `items` ended after `seconds`, at Unix time `at`."""
        key = (listed.tenant, listed.name, listed.version)
        old = self._statistics.get(key, Statistics())
        if ok:
            new = msgspec.structs.replace(
                old,
                inferences=old.inferences + items,
                executions=old.executions + 1,
                last_ms=int(at * 1000),
                success=_added(old.success, seconds),
            )
        else:
            new = msgspec.structs.replace(old, fail=_added(old.fail, seconds))
        self._statistics[key] = new

    def _grouped(self) -> dict[tuple[str, str], list[Version]]:
        groups: dict[tuple[str, str], list[Version]] = {}
        for each in self._versions:
            if self._manifests.get((each.tenant, each.digest)) is not None:
                groups.setdefault((each.tenant, each.model), []).append(each)
        return groups

    def _listed_as(self, version: Version) -> Listed:
        manifest = self._manifests[version.tenant, version.digest]
        assert manifest is not None  # noqa: S101 - `_grouped` leaves the others out
        state, variant = self._served_as(version)
        return Listed(
            tenant=version.tenant,
            name=version.model,
            version=version.version,
            task=manifest.task,
            state=state,
            variant=variant,
            digest=version.digest,
            reason="" if state is not ModelState.ABSENT else "no replica serves it",
            inputs=manifest.inputs,
            outputs=manifest.outputs,
            labels=manifest.labels,
            max_length=manifest.processing.max_length if manifest.task is not TaskKind.TENSOR else 0,
            batch_invariant=all(each.batch_invariant for each in manifest.variants if variant in ("", each.name)),
        )

    def _served_as(self, version: Version) -> tuple[ModelState, str]:
        found = [
            (ModelState(model.state), model.variant or "")
            for name, member in self._fleet.members.items()
            if self._fleet.is_live(name)
            for model in member.served
            if (model.tenant, model.name, model.version) == (version.tenant, version.model, version.version)
        ]
        for state in _RANK:
            for each, variant in found:
                if each is state:
                    return state, variant
        return ModelState.ABSENT, ""


def _parsed(text: str) -> Manifest | None:
    try:
        return parse_manifest(text.encode())
    except Refused:
        # Published by a newer control plane in a format this one does not know: not ours to serve.
        return None


def _added(duration: Duration, seconds: float) -> Duration:
    return Duration(count=duration.count + 1, ns=duration.ns + int(seconds * 1e9))
