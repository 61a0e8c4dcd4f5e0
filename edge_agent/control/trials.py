"""A model version is tried in a process of its own before this one loads it; what passed is remembered across restarts.

A pass counts for the bytes that were tried (manifest digest and variant) under the runtime that ran them: a device that restarts
loads what it has at once, a device with a new runtime tries again. What did not pass is never remembered here: the step fails, and
the record of failures (`state`) decides how often it is tried.
"""

import asyncio
from pathlib import Path

import msgspec

from shared.io.durable import write_durably
from shared.io.logs import Log
from shared.protocol.errors import Transient
from shared.protocol.reported import Isolation
from shared.serving.arrangement import ONNXRUNTIME, Arrangement
from shared.serving.trial.run import Trial, isolation_here, passed, try_bundle
from shared.serving.trial.verdict import Passed, TrialLimits, TrialRequest
from shared.serving.tuning.machine import version_of

FILE = "trials.json"
MAX_KEPT = 256
"""Passes that are remembered; the oldest go first."""


class Passes(msgspec.Struct, frozen=True, kw_only=True):
    """What passed under `runtime`: (digest, variant), oldest first."""

    runtime: str
    passed: tuple[tuple[str, str], ...] = ()


class Trials:
    """Owner of the memory of passes. Loop's thread only."""

    def __init__(
        self, folder: Path | None, *, limits: TrialLimits, runtime: str, log: Log, trial: Trial = try_bundle
    ) -> None:
        """`folder` is the agent's state folder; None remembers nothing. `runtime` is the one that will serve."""
        self.limits = limits
        self.trial = trial
        self._file = None if folder is None else folder / FILE
        self._log = log
        self._passes = Passes(runtime=runtime)
        if self._file is not None:
            self._passes = _kept(self._file, runtime)

    async def require(self, digest: str, variant: str, folder: Path, *, arrangement: Arrangement) -> None:
        """Return when this version may be loaded: it passed before, on the same runtime, or it passes now.

        Raises:
            Corrupt: it did not pass; `code` and message say how it failed.
            Transient: it cannot be tried now.

        """
        key = (digest, variant if arrangement.runtime == ONNXRUNTIME else f"{variant}+{_other(arrangement)}")
        if key in self._passes.passed:
            return
        request = TrialRequest(
            folder=str(folder),
            variant=variant,
            limits=self.limits,
            threads=arrangement.threads,
            runtime=arrangement.runtime,
            precision=arrangement.precision,
        )
        found: Passed = passed(await self.trial(request))
        self._log.info("trial passed", digest=digest, variant=variant, isolation=found.isolation, unrun=found.unrun)
        await self._remember(key)

    async def isolation(self) -> Isolation:
        """What keeps trials off the network here."""
        try:
            return await isolation_here()
        except Transient as error:
            self._log.warning("no trial can be started now", error=error.message)
            return Isolation.NONE

    async def _remember(self, key: tuple[str, str]) -> None:
        known = (*(one for one in self._passes.passed if one != key), key)[-MAX_KEPT:]
        self._passes = msgspec.structs.replace(self._passes, passed=known)
        if self._file is None:
            return
        try:
            await asyncio.to_thread(write_durably, self._file, msgspec.json.encode(self._passes))
        except OSError as error:
            # Serving matters more than the memory: without it there is one more trial.
            self._log.warning("a passed trial is not remembered", error=str(error))


def _other(arrangement: Arrangement) -> str:
    """What runs a program that ONNX Runtime does not, with its version: `Passes.runtime` tells nothing of it."""
    return "-".join((arrangement.runtime, version_of(arrangement.runtime), arrangement.precision))


def _kept(file: Path, runtime: str) -> Passes:
    """What is remembered; nothing where the file is absent, rotten or of another runtime."""
    try:
        kept = msgspec.json.decode(file.read_bytes(), type=Passes)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Passes(runtime=runtime)
    return kept if kept.runtime == runtime else Passes(runtime=runtime)
