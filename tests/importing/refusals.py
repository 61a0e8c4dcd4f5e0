"""Opening a folder that must be refused."""

import json
import tempfile
from pathlib import Path

import pytest

from cloud_core.importer.architectures.choose import open_source
from cloud_core.importer.opened import Opened
from cloud_core.importer.source import Source
from shared.protocol.errors import Refused
from tests.importing.bundles import request_for


def opened(folder: Path) -> Opened:
    """The folder, opened in a work folder of its own."""
    work = Path(tempfile.mkdtemp(dir=folder.parent))
    return open_source(request_for(folder), Source(path=folder), work)


def refusal(folder: Path) -> Refused:
    """Why the folder is not opened."""
    with pytest.raises(Refused) as raised:
        opened(folder)
    return raised.value


def changed(path: Path, **fields: object) -> None:
    """Replace fields of a JSON object."""
    value = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**value, **fields}), encoding="utf-8")
