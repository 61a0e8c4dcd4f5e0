"""A server with the imports loop beside it, and fleetctl logged in: imports as a person sees them, with a stand-in for the importer."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from cloud_core.loops.import_attempt import Importer
from cloud_core.loops.imports import Imports
from cloud_core.loops.run import _place
from cloud_core.store.chunk_stores import open_chunks
from shared.bundle.manifest import canonical
from shared.io.clock import SystemClock
from tests.cloud_core.api.bundles import bundle
from tests.cloud_core.api.server import OpenGate, Running, running
from tests.cloud_core.broker.brokers import LOG
from tests.cloud_core.ctl.shell import Shell
from tests.cloud_core.loops.importing import LIMITS, STAND_IN


class Site(NamedTuple):
    """A server, the loop beside it, and fleetctl logged in."""

    api: Running
    fleetctl: Shell
    folder: Path

    def source(
        self,
        play: Sequence[Sequence[Any]],
        *,
        version: str = "1.0.0",
        name: str = "tiny",
        at: str = "source",
        **manifest_fields: Any,
    ) -> Path:
        """A folder whose import plays `play`."""
        folder = self.folder / at
        folder.mkdir(exist_ok=True)
        manifest, pieces = bundle(name, version)
        manifest = msgspec.structs.replace(manifest, **manifest_fields)
        (folder / "play.json").write_text(json.dumps(play))
        (folder / "manifest.json").write_bytes(canonical(manifest))
        (folder / "model.onnx").write_bytes(b"".join(pieces))
        return folder

    async def sent(self) -> int:
        """How many chunks were uploaded so far."""
        said = (await self.api.anybody("GET", "/metrics")).body.decode()
        name = 'tideline_api_requests_total{route="PUT /api/v1/imports/chunks/{digest}",status="201"}'
        return next((int(float(line.split()[-1])) for line in said.splitlines() if line.startswith(name)), 0)


@asynccontextmanager
async def site(url: str, folder: Path) -> AsyncIterator[Site]:
    async with running(url, folder) as api:
        python = sys.executable
        importer = Importer(python, (python, "-P", str(STAND_IN)), {"PATH": "/usr/bin:/bin"}, LIMITS, ())
        chunks = open_chunks(api.settings.chunk_store, api.settings.artifacts)
        loop = Imports(api.engine, _place(api.settings, chunks), importer, OpenGate(), clock=SystemClock(), log=LOG)
        task = asyncio.create_task(loop.run())
        assert api.admin.token is not None
        try:
            yield Site(api, Shell(api.url, folder, FLEETCTL_TOKEN=api.admin.token), folder)
        finally:
            await loop.close()
            await task
