"""Which variant of a model version this device runs."""

from collections.abc import Mapping, Sequence
from enum import StrEnum

import msgspec

from shared.bundle.manifest import Manifest, Variant
from shared.protocol.desired import ModelRef


class Lack(StrEnum):
    """Why no variant fits."""

    UNKNOWN = "unknown-variant"
    RUNTIME = "runtime"
    FEATURES = "features"
    MEMORY = "memory"


class Unfit(msgspec.Struct, frozen=True, kw_only=True):
    """No variant fits: what is lacking, and in words."""

    reason: Lack
    detail: str


DEFAULT = "cpu-int8"
"""The variant of a version nobody measured here."""


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """What a device offers. `memory_bytes` None is no bound; `features` hold CPU features and execution providers.

    `insists`: its user set what is preferred, and nothing that was measured is preferred to it.
    """

    preferred: str | None = None
    insists: bool = True
    memory_bytes: int | None = None
    features: frozenset[str] = frozenset({"CPUExecutionProvider"})
    runtimes: frozenset[str] = frozenset({"onnx", "onnxruntime"})

    def within(self, memory_bytes: int | None) -> "Device":
        """The same device with no more memory than `memory_bytes`; None bounds nothing."""
        bounds = [bound for bound in (self.memory_bytes, memory_bytes) if bound is not None]
        return msgspec.structs.replace(self, memory_bytes=min(bounds, default=None))


def choose_variant(
    manifest: Manifest, device: Device, *, wanted: str | None = None, advised: str | None = None
) -> str | Unfit:
    """The variant to run: `wanted` or nothing where the cloud names one, else the preferred, else the first that fits.

    `advised` is what was measured best here: preferred before all others, unless the device insists.
    """
    if wanted is not None:
        for variant in manifest.variants:
            if variant.name == wanted:
                return _lack(variant, device) or wanted
        names = ", ".join(variant.name for variant in manifest.variants)
        return Unfit(reason=Lack.UNKNOWN, detail=f"there is no variant {wanted}, only {names}")
    first: Unfit | None = None
    for variant in _ranked(manifest, device, advised):
        lack = _lack(variant, device)
        if lack is None:
            return variant.name
        first = first or lack
    return first or Unfit(reason=Lack.UNKNOWN, detail="the version has no variant")


def fitting(manifest: Manifest, device: Device, *, wanted: str | None = None) -> tuple[Variant, ...]:
    """The variants that may be chosen from, in the order of preference: one where the cloud or the user named it, and it fits."""
    fit = tuple(variant for variant in _ranked(manifest, device, None) if _lack(variant, device) is None)
    named = wanted or (device.preferred if device.insists else None)
    only = tuple(variant for variant in fit if variant.name == named)
    return only if only or wanted is not None else fit


def choose_variants(
    models: tuple[ModelRef, ...],
    manifests: Mapping[str, Manifest],
    device: Device,
    advised: Mapping[str, str] = {},
) -> dict[str, str] | tuple[ModelRef, Unfit]:
    """A variant for each model's digest, or the first model that is unfit. `advised` is by digest.

    Each must fit into the device's memory by itself: those that do not fit together are put out of memory for one another.
    """
    chosen: dict[str, str] = {}
    for model in models:
        advice = advised.get(model.digest)
        one = choose_variant(manifests[model.digest], device, wanted=model.variant, advised=advice)
        if isinstance(one, Unfit):
            return model, one
        chosen[model.digest] = one
    return chosen


def advice(
    measured: Mapping[str, str], *, running: Mapping[str, str], installed: frozenset[tuple[str, str]]
) -> dict[str, str]:
    """Variants to prefer by digest: what was `measured` best, where it is installed already.

    What is `running` stays: to be loaded as another variant a version would have to go first, and would not answer in between.
    """
    found = {digest: running.get(digest, variant) for digest, variant in measured.items()}
    return {digest: variant for digest, variant in found.items() if digest in running or (digest, variant) in installed}


def _ranked(manifest: Manifest, device: Device, advised: str | None) -> Sequence[Variant]:
    first = None if device.insists else advised
    return sorted(manifest.variants, key=lambda variant: (variant.name != first, variant.name != device.preferred))


def _lack(variant: Variant, device: Device) -> Unfit | None:
    if variant.runtime not in device.runtimes:
        have = ", ".join(sorted(device.runtimes))
        return Unfit(reason=Lack.RUNTIME, detail=f"{variant.name} needs runtime {variant.runtime}, there is {have}")
    needs = {*variant.requirements.features, *variant.requirements.providers}
    if missing := needs - device.features:
        return Unfit(reason=Lack.FEATURES, detail=f"{variant.name} needs {', '.join(sorted(missing))}")
    need = variant.requirements.memory_bytes
    if device.memory_bytes is not None and need > device.memory_bytes:
        return Unfit(
            reason=Lack.MEMORY, detail=f"{variant.name} needs {need} B of memory, {device.memory_bytes} B are allowed"
        )
    return None
