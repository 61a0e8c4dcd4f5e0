"""What can be measured on this device: versions with the variants whose files lie here."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from edge_agent.control.arrangements import NO_LIMITS, Arrangements
from edge_agent.decide.variants import Device, fitting
from shared.bundle import install as bundles
from shared.bundle.manifest import MANIFEST_FILE, Manifest, Variant, parse_manifest
from shared.protocol.desired import Limits
from shared.protocol.errors import Corrupt, Refused
from shared.serving.arrangement import Arrangement
from shared.serving.decide.tuned import Record, rows_of
from shared.serving.decide.tuning import Progress
from shared.serving.decide.ways import Space
from shared.serving.trial.verdict import TrialLimits
from shared.serving.tuning.run import tune
from shared.serving.tuning.wire import TuneRequest

LEAST_PATIENCE_S = 10.0


class Subject(NamedTuple):
    """One version: `folders` by variant; `variants` those to choose from, in the order of preference.

    `told`: how the fleet was told it runs best on devices like this one. `text`: the manifest of a version that has none in its folder.
    """

    manifest: Manifest
    digest: str
    folders: Mapping[str, Path]
    variants: tuple[Variant, ...]
    limits: Limits = NO_LIMITS
    told: Arrangement | None = None
    text: str | None = None

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.manifest.name}@{self.manifest.version}"


def installed_here(folder: Path, device: Device) -> list[Subject]:
    """Every version installed in `folder` that a variant of fits; what cannot be read is left out. Blocks."""
    found: dict[str, dict[str, Path]] = {}
    for (digest, variant), place in sorted(bundles.installed(folder).items()):
        found.setdefault(digest, {})[variant] = place
    subjects = []
    for digest, folders in found.items():
        try:
            manifest = parse_manifest((next(iter(folders.values())) / MANIFEST_FILE).read_bytes())
        except (OSError, Refused, Corrupt):
            continue
        subjects.append(subject_of(manifest, digest, folders, device))
    return [subject for subject in subjects if subject.variants]


def subject_of(
    manifest: Manifest,
    digest: str,
    folders: Mapping[str, Path],
    device: Device,
    *,
    wanted: str | None = None,
    limits: Limits = NO_LIMITS,
) -> Subject:
    """What is to be measured of a version whose variants lie in `folders`; `wanted` is the one the cloud named."""
    here = tuple(variant for variant in manifest.variants if variant.name in folders)
    variants = fitting(
        msgspec.structs.replace(manifest, variants=here), device.within(limits.memory_bytes), wanted=wanted
    )
    return Subject(manifest, digest, folders, variants, limits)


def space_of(subject: Subject, arrangements: Arrangements) -> Space:
    """What a run may choose from."""
    return arrangements.space(subject.manifest, subject.variants, subject.limits)


async def measured(
    subject: Subject,
    arrangements: Arrangements,
    *,
    memory_bytes: int,
    progress: Progress,
    keep: Callable[[Progress], None],
    now: Callable[[], float],
) -> Record:
    """Measure a version, on from `progress`; nothing is written.

    Raises:
        Corrupt: it cannot be measured in any way.
        Transient: no process can be started here and now.

    """
    space = space_of(subject, arrangements)
    patience = max(LEAST_PATIENCE_S, space.seconds)
    request = TuneRequest(
        folders={variant.name: str(subject.folders[variant.name]) for variant in subject.variants},
        space=space,
        progress=progress,
        manifest=subject.text,
        limits=TrialLimits(memory_bytes=memory_bytes, seconds=patience),
    )
    progress, finish = await tune(request, keep=keep)
    return Record(
        digest=subject.digest,
        name=subject.manifest.name,
        version=subject.manifest.version,
        machine=arrangements.machine,
        space=space,
        way=finish.way,
        reason=finish.reason,
        rows=rows_of(progress, finish),
        at=now(),
        spent=progress.spent,
    )
