"""Chunks in an object store: `<tenant>/ab/abcd…` below its prefix. What a put wrote is there as a whole, or not at all.

Imported only where settings name such a store: obstore comes with the extra `s3`.
"""

import contextlib
from collections.abc import Iterator, Sequence
from datetime import timedelta

import obstore
from obstore.exceptions import BaseError, GenericError
from obstore.store import ObjectStore, S3Store

from cloud_core.decide.spare_chunks import Kept
from cloud_core.store.chunks import Begun
from shared.protocol import names
from shared.protocol.errors import Refused, Transient, Unavailable

TIMEOUT = timedelta(seconds=20)
"""Of one request, and of all tries of one."""
RETRIES = 3
LANES = 16
LISTED = 1000


def open_s3(url: str) -> ObjectStore:
    """The bucket at `s3://bucket/prefix`; endpoint, region and credentials come from the usual `AWS_*` variables.

    Raises:
        Refused: not such an address.

    """
    try:
        return S3Store.from_url(
            url,
            # Who names an endpoint over plain HTTP means it.
            client_options={"timeout": TIMEOUT, "allow_http": True},
            retry_config={"max_retries": RETRIES, "retry_timeout": TIMEOUT},
        )
    except (BaseError, ValueError) as error:
        raise Refused(f"no object store: {_said(error)}", field="chunk_store", value=url) from error


class ObjectBlobs:
    """One tenant's kept forms in `store`."""

    lanes = LANES

    def __init__(self, store: ObjectStore, tenant: str) -> None:
        self._store = store
        self._prefix = f"{names.checked('slug', tenant, field='tenant')}/"

    def put(self, digest: str, data: bytes) -> None:
        """As `Blobs` says."""
        with _away(f"keeping chunk {digest}"):
            # In one request: the end of a put in parts could be lost on the way.
            obstore.put(self._store, self._path(digest), data, use_multipart=False)

    def get(self, digest: str, begin: int = 0, end: int | None = None) -> bytes | None:
        """As `Blobs` says."""
        path = self._path(digest)
        with _away(f"reading chunk {digest}"):
            try:
                if begin == 0 and end is None:
                    return bytes(obstore.get(self._store, path).bytes())
                if end is None:
                    return bytes(obstore.get(self._store, path, options={"range": {"offset": begin}}).bytes())
                return bytes(obstore.get_range(self._store, path, start=begin, end=end))
            except FileNotFoundError:
                return None

    def begin(self, digest: str, length: int) -> Begun | None:
        """As `Blobs` says."""
        path = self._path(digest)
        with _away(f"looking at chunk {digest}"):
            try:
                found = obstore.get(self._store, path, options={"range": (0, length)})
                return Begun(bytes(found.bytes()), found.meta["size"])
            except FileNotFoundError:
                return None
            except GenericError:
                # Of an empty object no range can be had.
                if obstore.head(self._store, path)["size"] == 0:
                    return Begun(b"", 0)
                raise

    def delete(self, digests: Sequence[str]) -> None:
        """As `Blobs` says."""
        with _away("removing chunks"), contextlib.suppress(FileNotFoundError):
            if digests:
                obstore.delete(self._store, [self._path(digest) for digest in digests])

    def list(self) -> Iterator[Kept]:
        """As `Blobs` says."""
        with _away("listing chunks"):
            for page in obstore.list(self._store, self._prefix, chunk_size=LISTED):
                for found in page:
                    digest = found["path"].rpartition("/")[2]
                    if names.DIGEST.fullmatch(digest) is not None:
                        yield Kept(digest, found["size"], found["last_modified"].timestamp())

    def discard_unfinished(self, *, older_than: float) -> None:
        """Nothing: an object store has none."""

    def _path(self, digest: str) -> str:
        return f"{self._prefix}{digest[:2]}/{digest}"


@contextlib.contextmanager
def _away(what: str) -> Iterator[None]:
    """Turn what the store complains of into the taxonomy: it is ours to try again later."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (BaseError, OSError) as error:
        raise Transient(f"{what}: the object store: {_said(error)}", why=Unavailable.STORAGE) from error


def _said(error: Exception) -> str:
    """The first line: those below quote requests."""
    return str(error).partition("\n")[0][:300]
