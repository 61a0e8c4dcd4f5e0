"""What convergence drives: the engine that has models in memory, and the folder and record it works from."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from edge_agent.control.state import AgentState
from shared.bundle.manifest import Manifest
from shared.bundle.store import ChunkStore
from shared.serving.catalog import Listed


class ModelHost(Protocol):
    """Has models in memory, by tenant, name and version. `shared.serving.engine` is the real one."""

    def models(self, tenant: str | None = None) -> Sequence[Listed]:
        """Everything it knows."""
        ...

    async def load(
        self, tenant: str, manifest: Manifest, digest: str, folder: Path, variant: str, *, threads: int
    ) -> object:
        """Load a variant beside what runs and warm it; it is ready once this returns.

        Raises:
            Corrupt: it cannot be loaded, or does not answer as its golden set says.
            Refused: a task or runtime this build lacks, or the version is loaded already with other bytes.

        """
        ...

    def activate(self, tenant: str, versions: Mapping[str, str]) -> None:
        """From now on requests that name no version get these: versions by model name, all at once.

        Raises:
            Refused: a version is not ready; nothing changes then.

        """
        ...

    async def unload(self, tenant: str, name: str, version: str) -> None:
        """Let what it is computing end, and give its memory back."""
        ...


class Disk(NamedTuple):
    """Where things are kept: the crash-safe record, the chunks, and the installed bundles."""

    state: AgentState
    chunks: ChunkStore
    bundles: Path
