"""Which variants of a version fit a device, by what it said it is; and what is lacking where none does. Pure.

The device has the last word: it knows what its user lets it use. What is refused here would be refused there, after the download.
"""

from collections.abc import Sequence, Set

from shared.bundle.manifest import Manifest, Variant
from shared.protocol.reported import Hardware

EVERYWHERE = frozenset({"CPUExecutionProvider"})
"""What every device offers, said or not."""


def lacking(
    manifest: Manifest, hardware: Hardware | None, *, variant: str | None = None, disk_free_bytes: int | None = None
) -> str | None:
    """Why the device can run none of the version's variants (or not the one that is named); None where one fits.

    A device that never said what it is, and a disk nobody looked at, are taken to be enough.
    """
    if hardware is None:
        return None
    offers = EVERYWHERE | set(hardware.features)
    named: Sequence[Variant] = [each for each in manifest.variants if variant in (None, each.name)]
    found = [_lack(each, manifest, hardware, offers, disk_free_bytes) for each in named]
    if None in found:
        return None
    return "; ".join(each for each in found if each is not None) or f"there is no variant {variant}"


def _lack(
    variant: Variant, manifest: Manifest, hardware: Hardware, offers: Set[str], disk_free_bytes: int | None
) -> str | None:
    needs = {*variant.requirements.features, *variant.requirements.providers}
    if missing := needs - offers:
        return f"{variant.name} needs {', '.join(sorted(missing))}"
    need = variant.requirements.memory_bytes
    if need > hardware.memory_bytes:
        return f"{variant.name} needs {need} B of memory, the device has {hardware.memory_bytes} B"
    size = sum(file.size for file in manifest.files_of(variant.name))
    if disk_free_bytes is not None and 0 < disk_free_bytes < size:
        return f"{variant.name} needs {size} B of disk, {disk_free_bytes} B are free"
    return None
