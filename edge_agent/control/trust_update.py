"""One run of TUF's client workflow, which python-tuf does; what it accepted, read back from its files. Blocks, in a thread.

python-tuf fetches with blocking calls; `Bridge` turns them into requests on the event loop, over whatever way there is to the cloud.
"""

import asyncio
import concurrent.futures
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from tuf.api.exceptions import DownloadError, DownloadHTTPError, ExpiredMetadataError, RepositoryError
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp
from tuf.ngclient import FetcherInterface, Updater

from edge_agent.control.state import LARGEST
from edge_agent.decide.trusting import EXPIRED, Accepted
from shared.protocol.errors import Corrupt, Refusal, Refused, Transient, Unavailable
from shared.protocol.topics import Path as Paths
from shared.protocol.trust import ROOT, SNAPSHOT, TARGETS, TIMESTAMP

HASH = "sha256"
_BASE = "metadata/"


class Fetch(Protocol):
    """The way to the cloud: what `path` of the device API holds, at most `max_bytes`."""

    async def __call__(self, path: str, max_bytes: int, /) -> bytes:
        """Raise `Refused` where it is not there, `Corrupt` where it is longer, `Transient` where it cannot be had now."""
        ...


class Update(NamedTuple):
    """What was accepted, by role, and the manifests' digests by target."""

    accepted: dict[str, Accepted]
    targets: dict[str, str]


class Bridge(FetcherInterface):
    """python-tuf's fetcher over `fetch`, which runs on `loop`."""

    def __init__(self, fetch: Fetch, loop: asyncio.AbstractEventLoop) -> None:
        self._get = fetch
        self._loop = loop
        self._waiting: concurrent.futures.Future[bytes] | None = None
        self._over = False

    def cancel(self) -> None:
        """Whoever waited for the update has left: end what it fetches, and begin no more."""
        self._over = True
        if self._waiting is not None:
            self._waiting.cancel()

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """As python-tuf says; our own errors pass through it."""
        if self._over:
            raise Transient("the update was given up", why=Unavailable.CANCELLED)
        path = Paths.TRUST.format(file=url.removeprefix(_BASE))
        self._waiting = asyncio.run_coroutine_threadsafe(self._fetched(path, max_length), self._loop)
        try:
            return self._waiting.result()
        except Refused as error:
            if error.kind is Refusal.NOT_FOUND:
                raise DownloadHTTPError(f"there is no {path}", 404) from error
            raise
        except concurrent.futures.CancelledError as error:
            raise Transient("the update was given up", why=Unavailable.CANCELLED) from error

    async def _fetched(self, path: str, max_length: int) -> bytes:
        return await self._get(path, max_length)

    def _fetch(self, url: str) -> Iterator[bytes]:
        raise NotImplementedError("targets come another way")


def update(folder: Path, root: bytes, fetcher: FetcherInterface) -> Update:
    """Bring the metadata in `folder` up to date, beginning at the pinned `root`. Blocks.

    Raises:
        Transient: it could not be had, or the disk is full or failing.
        Corrupt: what is served does not verify; with the code `EXPIRED` where all is well but its date.

    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        updater = Updater(str(folder), _BASE, fetcher=fetcher, bootstrap=root)
        updater.refresh()
        return _read(folder)
    except ExpiredMetadataError as error:
        raise Corrupt(f"expired: {error}", code=EXPIRED) from error
    except RepositoryError as error:
        raise Corrupt(f"{type(error).__name__}: {error}", code="trust-refused") from error
    except DownloadError as error:
        raise Transient(f"metadata is not there: {error}", why=Unavailable.UNREACHABLE) from error
    except Refused as error:
        raise Transient(f"metadata is not given: {error.message}", why=Unavailable.UNREACHABLE) from error
    except OSError as error:
        raise Transient(f"{folder}: {error}", why=Unavailable.STORAGE) from error


def _read(folder: Path) -> Update:
    """What python-tuf just verified, from the files it keeps."""
    root = Metadata[Root].from_file(str(folder / "root.json")).signed
    timestamp = Metadata[Timestamp].from_file(str(folder / "timestamp.json")).signed
    snapshot = Metadata[Snapshot].from_file(str(folder / "snapshot.json")).signed
    targets = Metadata[Targets].from_file(str(folder / "targets.json")).signed
    # TUF forgets versions with the keys of the role and of the one that names its version; so do the floors.
    scopes = {
        ROOT: (),
        TIMESTAMP: (TIMESTAMP,),
        SNAPSHOT: (TIMESTAMP, SNAPSHOT),
        TARGETS: (SNAPSHOT, TARGETS),
    }
    signed = {ROOT: root, TIMESTAMP: timestamp, SNAPSHOT: snapshot, TARGETS: targets}
    for role, value in signed.items():
        if value.version > LARGEST:
            raise Corrupt(f"{role} has version {value.version}, which nobody can keep", code="trust-refused")
    accepted = {
        role: Accepted(value.version, _scope(root, scopes[role]), value.expires.timestamp())
        for role, value in signed.items()
    }
    return Update(accepted, {path: file.hashes.get(HASH, "") for path, file in targets.targets.items()})


def _scope(root: Root, roles: tuple[str, ...]) -> str:
    key_ids = sorted({key_id for role in roles for key_id in root.roles[role].keyids})
    return hashlib.sha256(" ".join(key_ids).encode()).hexdigest() if roles else ""
