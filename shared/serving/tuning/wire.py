"""What a tuning run is asked and what it says: the wire between the process that measures and the one that serves."""

import msgspec

from shared.serving.decide.tuning import Progress, Said
from shared.serving.decide.ways import Space
from shared.serving.trial.verdict import TrialLimits


class TuneRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Measure the variants of one version, on from `progress`.

    `folders`: where the files of each variant in `space` are. `manifest`: the JSON text of a manifest that is not in a folder.
    `limits.seconds` is how long one measurement may take, loading included.
    """

    folders: dict[str, str]
    space: Space
    progress: Progress = Progress()
    manifest: str | None = None
    limits: TrialLimits = TrialLimits(seconds=60.0)


class Ready(msgspec.Struct, frozen=True, kw_only=True, tag="ready"):
    """The version can be read; measuring begins."""


class Unfit(msgspec.Struct, frozen=True, kw_only=True, tag="unfit"):
    """No variant of the version can be measured, whatever the way."""

    code: str
    message: str


Line = Ready | Unfit | Said
"""Every line after the first, which tells the isolation as a trial's does."""
