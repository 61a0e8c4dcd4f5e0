"""Which model versions every replica should serve, as a level: what assignments name, and each model's newest.

Devices overflow to the version they run, so everything assigned must be there; the newest is for callers that name no version.
"""

from collections.abc import Iterable, Sequence, Set

import msgspec

from shared.bundle.manifest import Variant

ANYWHERE = frozenset({"onnx", "onnxruntime", "CPUExecutionProvider"})
"""What every replica has."""


class Version(msgspec.Struct, frozen=True):
    """A published version that is not deleted."""

    tenant: str
    model: str
    version: str
    digest: str


class Named(msgspec.Struct, frozen=True):
    """A model version some assignment names."""

    tenant: str
    model: str
    version: str


def wanted(versions: Sequence[Version], named: Iterable[Named]) -> tuple[Version, ...]:
    """The versions to serve, in a fixed order; names that were never published or are deleted are left out."""
    by_model: dict[tuple[str, str], list[str]] = {}
    for each in versions:
        by_model.setdefault((each.tenant, each.model), []).append(each.version)
    wants = {(each.tenant, each.model, each.version) for each in named}
    wants |= {(tenant, model, newest(found)) for (tenant, model), found in by_model.items()}
    chosen = [each for each in versions if (each.tenant, each.model, each.version) in wants]
    return tuple(sorted(chosen, key=lambda each: (each.tenant, each.model, precedence(each.version))))


def newest(versions: Sequence[str]) -> str:
    """The highest of some semantic versions; a pre-release only where there is no release."""
    releases = [version for version in versions if "-" not in version.partition("+")[0]]
    return max(releases or versions, key=precedence)


def precedence(version: str) -> tuple[tuple[int, ...], int, tuple[tuple[int, int, str], ...], str]:
    """Orders semantic versions (semver.org 2.0.0, 11); build metadata only breaks ties, so that the order is total."""
    core, _, build = version.partition("+")
    numbers, _, pre = core.partition("-")
    identifiers = tuple(
        (0, int(part), "") if part.isdecimal() else (1, 0, part) for part in (pre.split(".") if pre else ())
    )
    return tuple(int(number) for number in numbers.split(".")), 0 if pre else 1, identifiers, build


def variant_for(variants: Sequence[Variant], preferred: str, offers: Set[str] = ANYWHERE) -> Variant:
    """The variant to run: the preferred one, else the first that runs on what the replica `offers`, else the first there is.

    `offers` holds runtimes, execution providers and CPU features. What does not run here is refused by name when it is loaded.
    """
    for variant in variants:
        if variant.name == preferred:
            return variant
    for variant in variants:
        needs = {variant.runtime, *variant.requirements.providers, *variant.requirements.features}
        if needs <= offers:
            return variant
    return variants[0]
