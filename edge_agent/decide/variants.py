"""Which variant of a model version this device runs."""

from collections.abc import Mapping
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


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """What a device offers. `memory_bytes` None is no bound; `features` hold CPU features and execution providers."""

    preferred: str | None = None
    memory_bytes: int | None = None
    features: frozenset[str] = frozenset({"CPUExecutionProvider"})
    runtimes: frozenset[str] = frozenset({"onnx", "onnxruntime"})


def choose_variant(manifest: Manifest, device: Device, *, wanted: str | None = None) -> str | Unfit:
    """The variant to run: `wanted` or nothing where the cloud names one, else the preferred, else the first that fits."""
    if wanted is not None:
        for variant in manifest.variants:
            if variant.name == wanted:
                return _lack(variant, device) or wanted
        names = ", ".join(variant.name for variant in manifest.variants)
        return Unfit(reason=Lack.UNKNOWN, detail=f"there is no variant {wanted}, only {names}")
    first: Unfit | None = None
    for variant in sorted(manifest.variants, key=lambda variant: variant.name != device.preferred):
        lack = _lack(variant, device)
        if lack is None:
            return variant.name
        first = first or lack
    return first or Unfit(reason=Lack.UNKNOWN, detail="the version has no variant")


def choose_variants(
    models: tuple[ModelRef, ...], manifests: Mapping[str, Manifest], device: Device
) -> dict[str, str] | tuple[ModelRef, Unfit]:
    """A variant for each model's digest, all of them together within the device's memory; or the first that is unfit.

    Models are served in the order of the generation, so that the same generation gets the same variants every time.
    """
    chosen: dict[str, str] = {}
    left = device.memory_bytes
    for model in models:
        manifest = manifests[model.digest]
        one = choose_variant(manifest, msgspec.structs.replace(device, memory_bytes=left), wanted=model.variant)
        if isinstance(one, Unfit):
            return model, one
        chosen[model.digest] = one
        if left is not None:
            left -= manifest.variant(one).requirements.memory_bytes
    return chosen


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
            reason=Lack.MEMORY, detail=f"{variant.name} needs {need} B of memory, {device.memory_bytes} B left"
        )
    return None
