"""Where chunks are kept, as settings say: each tenant's own part of a folder or of an object store."""

from collections.abc import Callable
from pathlib import Path

from cloud_core.store.chunk_folder import FolderBlobs
from cloud_core.store.chunks import Chunks
from shared.protocol.errors import Refused

FOLDER = "folder"
S3 = "s3://"

ChunksOf = Callable[[str], Chunks]
"""A tenant's chunks."""


def open_chunks(setting: str, folder: Path) -> ChunksOf:
    """What `chunk_store` names: `folder`, below which each tenant has one, or a bucket.

    Raises:
        Refused: neither, or the extra that speaks to it is not installed.

    """
    if setting == FOLDER:
        return lambda tenant: Chunks(FolderBlobs(folder / tenant))
    if not setting.startswith(S3):
        raise Refused("bad setting", field="chunk_store", value=setting, allowed="folder, or s3://bucket/prefix")
    try:
        from cloud_core.store.chunk_objects import ObjectBlobs, open_s3  # noqa: PLC0415 - an extra
    except ImportError as error:
        allowed = "folder, or with `pip install tideline[s3]` a bucket"
        raise Refused("obstore is not installed", field="chunk_store", value=setting, allowed=allowed) from error
    store = open_s3(setting)
    return lambda tenant: Chunks(ObjectBlobs(store, tenant))
