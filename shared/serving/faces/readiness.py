"""Readiness as both `/ready` and `/v2/health/ready` tell it: samples the machine, asks the catalog, lets `judge` decide."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from shared.serving.catalog import Catalog
from shared.serving.decide.readiness import Check, Verdict, Version, judge


class Readiness:
    """What a program's health routes ask. Sampling memory and disk takes microseconds and never waits."""

    def __init__(
        self,
        *,
        catalog: Catalog | None = None,
        folder: Path | None = None,
        needs_model: bool = True,
        checks: Callable[[], Sequence[Check]] = tuple,
    ) -> None:
        """`folder`: where the program writes; `checks`: what else must hold, named."""
        self._catalog = catalog
        self._folder = folder
        self._needs_model = needs_model and catalog is not None
        self._checks = checks

    def verdict(self) -> Verdict:
        """Now."""
        models = self._catalog.models() if self._catalog is not None else ()
        versions = [
            Version(
                name=model.name,
                version=model.version,
                state=model.state.value,
                active=model.active,
                reason=model.reason,
                resident=model.resident,
            )
            for model in models
        ]
        return judge(
            versions,
            self._checks(),
            memory=psutil.virtual_memory().percent / 100.0,
            disk_free=shutil.disk_usage(self._folder).free if self._folder is not None else None,
            needs_model=self._needs_model,
        )
