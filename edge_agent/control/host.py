"""What convergence drives: the engine that has models in memory, and the folder and record it works from."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from edge_agent.control.state import AgentState
from shared.bundle.manifest import Manifest
from shared.bundle.store import ChunkStore
from shared.serving.arrangement import Arrangement
from shared.serving.catalog import Listed
from shared.serving.decide.residency import Keep


class ModelHost(Protocol):
    """Has models in memory, by tenant, name and version. `shared.serving.engine` is the real one."""

    def models(self, tenant: str | None = None) -> Sequence[Listed]:
        """Everything it knows."""
        ...

    async def load(
        self, tenant: str, manifest: Manifest, digest: str, folder: Path, variant: str, *, arrangement: Arrangement
    ) -> object:
        """Load a variant beside what runs and warm it; it is ready once this returns.

        Raises:
            Corrupt: it cannot be loaded, or does not answer as its golden set says.
            Refused: a task or runtime this build lacks, or the version is loaded already with other bytes.

        """
        ...

    async def rearrange(self, tenant: str, name: str, version: str, arrangement: Arrangement, folder: Path) -> bool:
        """Run a loaded version, installed in `folder`, in another way, without a gap; False where that cannot be done now.

        Raises:
            Corrupt, Refused: it cannot run like this; it runs as it did.

        """
        ...

    def activate(self, tenant: str, versions: Mapping[str, str]) -> None:
        """From now on requests that name no version get these: versions by model name, all at once.

        Raises:
            Refused: a version is not ready; nothing changes then.

        """
        ...

    def hold(self, tenant: str, keeps: Mapping[tuple[str, str], Keep]) -> None:
        """How firmly versions are held in memory, by name and version; all others are held as any."""
        ...

    def bound(self, memory_bytes: int | None) -> None:
        """From now on programs may take `memory_bytes` at most, or the process's own bound where that is less."""
        ...

    async def unload(self, tenant: str, name: str, version: str) -> None:
        """Let what it is computing end, and give its memory back."""
        ...


class Disk(NamedTuple):
    """Where things are kept: the crash-safe record, the chunks, and the installed bundles."""

    state: AgentState
    chunks: ChunkStore
    bundles: Path
