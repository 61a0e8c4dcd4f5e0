"""`python -m bench.transfer_agent FOLDER API TOKEN DIGEST VARIANT`: one agent that fetches and installs a version.

It enrols, says `ready`, waits for a line, and then does what a device does of an update before anything is loaded: the manifest,
the chunks that it lacks, each verified and durable, and the bundle, assembled, verified and durable. Then it says how long that took.
"""

import asyncio
import sys
import time
from pathlib import Path

import aiohttp
import uvloop

from edge_agent.control.enrol import Enrolment, enrol_once
from edge_agent.control.fetch import Fetcher
from edge_agent.control.fetch_http import HttpSource
from edge_agent.control.identity import AccessTokens
from shared.bundle.chunks import missing
from shared.bundle.install import install
from shared.bundle.manifest import parse_manifest
from shared.bundle.store import ChunkStore
from shared.io.clock import SystemClock
from shared.protocol.reported import Hardware

HARDWARE = Hardware(hardware_class="bench", machine="none", cpus=1, memory_bytes=1 << 30)


async def run(folder: Path, api: str, token: str, digest: str, variant: str) -> None:
    """One agent, from its enrolment to the installed bundle."""
    store, clock = ChunkStore(folder / "chunks"), SystemClock()
    async with aiohttp.ClientSession() as http:
        wanted = Enrolment(url=api, token=token, hardware=HARDWARE, agent_version="bench")
        identity = await enrol_once(folder, wanted, http=http)
        tokens = AccessTokens(identity.own, identity.signer, http=http, clock=clock)
        await tokens.token()
        fetcher = Fetcher(HttpSource(http, api_url=api, tokens=tokens), clock=clock)
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        began = time.perf_counter()
        data = await fetcher.manifest(digest)
        await asyncio.to_thread(store.put, digest, data)
        files = parse_manifest(data).files_of(variant)
        await fetcher.chunks(missing(files, store.held()), store)
        fetched = time.perf_counter()
        await asyncio.to_thread(install, data, variant, store, folder / "bundles")
        print(f"{fetched - began} {time.perf_counter() - fetched}", flush=True)


if __name__ == "__main__":
    uvloop.run(run(Path(sys.argv[1]), *sys.argv[2:]))
