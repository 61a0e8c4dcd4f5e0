"""A model of 90 MB to 20 agents over loopback, beside `curl` to disk, `sync` and `sha256sum` of the same file, run as often.

The cloud is a whole `cloud-core serve`; each agent is a process with the agent's own fetching and installing
(`bench.transfer_agent`). Each side starts its 20 at one moment and ends with the last of them; they take turns. What curl
fetches comes in one piece, from a server that has nothing else to do.

Bytes are those of the loopback interface while the agents work: of requests, headers and acknowledgements too.
"""

import asyncio
import contextlib
import json
import os
import secrets
import statistics
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import aiohttp
import msgspec
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bench.result import Result
from bench.rounds import is_quick
from cloud_core.demo.fleet import Fleet, fleetctl
from cloud_core.demo.platform import HOST, Platform, choose_ports, wait_http
from cloud_core.models.publish import PROGRAM, build_bundle
from shared.bundle.chunks import chunks_of
from shared.bundle.manifest import MANIFEST_FILE, Manifest, canonical, parse_manifest
from shared.io.free_ports import find_ports

SIZE, QUICK_SIZE = 90_000_000, 5_000_000
AGENTS, QUICK_AGENTS = 20, 3
ROUNDS = 3
PATIENCE_S = 900.0
MODEL, VERSION = "bench", "1.0.0"
GOALS = {"aggregate_of_curl": (">=", 0.70), "bytes_moved_of_missing": ("<=", 1.02)}
STATIC = """
import sys
from aiohttp import web
application = web.Application()
application.router.add_static("/", sys.argv[1])
web.run_app(application, host="127.0.0.1", port=int(sys.argv[2]), print=None, access_log=None)
"""
CURL = 'read go && curl --silent --show-error --fail --output "$0" "$1" && sync "$0" && sha256sum "$0"'


class Site(NamedTuple):
    """Where everything is: a folder for what is written, the cloud's API, the plain server's address, and the version."""

    folder: Path
    fleet: Fleet
    api: str
    plain: str
    digest: str
    manifest: Manifest


class Round(NamedTuple):
    """One round of the agents: seconds from the start to the last, and of each agent fetching and installing; bytes on loopback."""

    seconds: float
    fetching: list[float]
    installing: list[float]
    moved: int


def run() -> Result:
    """All rounds."""
    return asyncio.run(_measured())


async def _measured() -> Result:
    size, agents, rounds = (QUICK_SIZE, QUICK_AGENTS, 1) if is_quick() else (SIZE, AGENTS, ROUNDS)
    curls: list[float] = []
    ours: list[Round] = []
    with tempfile.TemporaryDirectory(prefix="tideline-bench-", dir=os.environ.get("BENCH_FOLDER")) as name:
        async with _site(Path(name), size) as site:
            for number in range(rounds):
                curls.append(await _curls(site, agents, number))
                ours.append(await _agents(site, agents, number))
            kept = sum(path.stat().st_size for path in site.folder.glob("cloud/artifacts/default/objects/*/*"))
            missing = sum(chunk.size for chunk in chunks_of(site.manifest.files))
            program = sum(file.size for file in site.manifest.files)
    metrics = {
        "agents": float(agents),
        "model_mb": program / 1e6,
        "chunks": float(len(chunks_of(site.manifest.files))),
        "curl_mb_per_s": agents * program / 1e6 / statistics.median(curls),
        "agents_mb_per_s": agents * program / 1e6 / statistics.median(one.seconds for one in ours),
        "aggregate_of_curl": statistics.median(curls) / statistics.median(one.seconds for one in ours),
        "fetching_of_curl": statistics.median(curls) / statistics.median(max(one.fetching) for one in ours),
        "bytes_moved_of_missing": statistics.median(one.moved for one in ours) / (agents * missing),
        "bytes_kept_of_missing": kept / missing,
        "fetching_s": statistics.median(seconds for one in ours for seconds in one.fetching),
        "installing_s": statistics.median(seconds for one in ours for seconds in one.installing),
    }
    notes = (
        f"seconds of each round: curl {_listed(curls)}, agents {_listed([one.seconds for one in ours])}",
        "fetching: until the last agent has every chunk, verified and durable; installing puts the bytes on the disk a second time",
        "moved: bytes of the loopback interface, headers and acknowledgements too; missing: bytes of the chunks' content",
    )
    return Result(name="transfer", metrics=metrics, goals=GOALS, notes=notes)


@contextlib.asynccontextmanager
async def _site(folder: Path, size: int) -> AsyncIterator[Site]:
    """A cloud with the version published, and a plain server with its program."""
    source, password = folder / "source", secrets.token_urlsafe(9)
    await asyncio.to_thread(_write_source, source, size)
    ports, _ = choose_ports(0, usual=False)
    platform = Platform(folder, ports, environment=os.environ, admin_password=password)
    platform.set_cloud(replicas="0")
    port = find_ports(HOST, 1)
    async with contextlib.AsyncExitStack() as end:
        http = await end.enter_async_context(aiohttp.ClientSession())
        server = await asyncio.create_subprocess_exec(sys.executable, "-c", STATIC, str(source), str(port))
        end.push_async_callback(_ended, server)
        end.push_async_callback(platform.stop)
        await platform.cloud.start()
        plain = f"http://{HOST}:{port}/{PROGRAM}"
        await wait_http(http, f"{platform.api}/ready", seconds=PATIENCE_S)
        await wait_http(http, plain, seconds=PATIENCE_S)
        fleet = Fleet(http, platform.api)
        await fleet.login(password)
        said = await fleetctl(
            "models", "publish", str(source), "--json",
            url=platform.api, token=fleet.token, environment=os.environ, folder=folder,
        )  # fmt: skip
        shown = await fleet.call("GET", f"/models/{MODEL}/versions/{VERSION}")
        manifest = parse_manifest(json.dumps(shown["manifest"]).encode())
        yield Site(folder, fleet, platform.api, plain, json.loads(said)["digest"], manifest)


def _write_source(folder: Path, size: int) -> None:
    """A program whose weights are as those of a trained model: normally distributed, in FP32."""
    width = int((size / 4) ** 0.5)
    weights = np.random.default_rng(0).normal(0.0, 0.02, (width, width)).astype(np.float32)
    vector = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, width]) for name in ("x", "y")]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "bench",
        vector[:1],
        vector[1:],
        [numpy_helper.from_array(weights, "w")],
    )
    folder.mkdir(parents=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / PROGRAM)
    manifest, _ = build_bundle(folder / PROGRAM, _Nowhere())
    named = msgspec.structs.replace(manifest, name=MODEL, version=VERSION)
    (folder / MANIFEST_FILE).write_bytes(canonical(named))


class _Nowhere:
    """Keeps no chunk."""

    def put(self, digest: str, data: bytes) -> None:
        """Take it."""


async def _curls(site: Site, count: int, number: int) -> float:
    """Seconds until the last has its file on disk and its hash."""
    where = site.folder / f"curl-{number}"
    where.mkdir()
    started = [await _started("sh", "-c", CURL, str(where / str(i)), site.plain) for i in range(count)]
    seconds, told = await _raced(started)
    if len({each.split()[0] for each in told}) != 1:
        raise RuntimeError(f"not the same file: {told}")
    return seconds


async def _agents(site: Site, count: int, number: int) -> Round:
    """One round of fresh agents."""
    where, variant = site.folder / f"agents-{number}", site.manifest.variants[0].name
    started = []
    for i in range(count):
        made = await site.fleet.call("POST", "/devices", {"device": f"agent-{number}-{i}"})
        arguments = (str(where / str(i)), site.api, made["enrol_token"], site.digest, variant)
        started.append(await _started(sys.executable, "-m", "bench.transfer_agent", *arguments))
    for process in started:
        if process.stdout is None or await process.stdout.readline() != b"ready\n":
            raise RuntimeError("an agent did not start")
    before = _loopback_bytes()
    seconds, told = await _raced(started)
    moved = _loopback_bytes() - before
    parts = [each.split() for each in told]
    return Round(seconds, [float(part[0]) for part in parts], [float(part[1]) for part in parts], moved)


async def _raced(processes: list[Process]) -> tuple[float, list[str]]:
    """Let all go at once; the seconds until the last is done, and what each said."""
    began = time.perf_counter()
    told = await asyncio.gather(*(process.communicate(b"go\n") for process in processes))
    seconds = time.perf_counter() - began
    if any(process.returncode for process in processes):
        raise RuntimeError("a run failed: its error is above")
    return seconds, [out.decode() for out, _ in told]


async def _started(*command: str) -> Process:
    return await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE)


async def _ended(process: Process) -> None:
    process.terminate()
    await process.wait()


def _loopback_bytes() -> int:
    """Received by the loopback interface since the machine started, which is what was sent over it."""
    rows = Path("/proc/net/dev").read_text().splitlines()
    return next(int(row.split()[1]) for row in rows if row.split()[0] == "lo:")


def _listed(seconds: list[float]) -> str:
    return ", ".join(f"{each:.1f}" for each in seconds)
