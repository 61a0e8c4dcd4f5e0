"""Programs as people start them, asked over their real doors: one edge without a cloud, and one whole platform."""

import contextlib
import http.client
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cloud_core.models.publish import build_bundle
from cloud_core.models.shipped import shipped_models
from shared.bundle.install import install
from shared.bundle.store import ChunkStore
from tests.e2e.scene import Scene
from tests.edge_agent.test_agent import Agent, program, running


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Door:
    """HTTP to one server, with nothing between the test and the bytes."""

    def __init__(self, port: int, **headers: str) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.headers = headers

    def ask(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        """`body`: bytes go as they are, anything else as JSON. A header given as "" is not sent."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        named = {"Content-Type": "application/json"} if data is not None else {}
        named |= self.headers | {name.replace("_", "-"): value for name, value in headers.items()}
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            connection.request(method, path, data, {name: value for name, value in named.items() if value})
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, **headers)

    def post(self, path: str, body: object = None, **headers: str) -> Answer:
        return self.ask("POST", path, body, **headers)

    def metrics(self) -> str:
        return self.get("/metrics").body.decode()


class Edge(Door):
    """`edge-agent serve` with the shipped models and a tensor model."""

    def __init__(self, agent: Agent) -> None:
        super().__init__(agent.port)
        self.agent = agent


def bundles(folder: Path) -> list[str]:
    """The shipped models, installed as a device has them."""
    store, made = ChunkStore(folder / "chunks"), []
    for source in shipped_models():
        manifest, data = build_bundle(source, store)
        variant = manifest.variants[-1].name  # int8 where a model has it
        made.append(str(install(data, variant, store, folder / "bundles")))
    return made


@pytest.fixture(scope="session")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    folder = tmp_path_factory.mktemp("edge")
    paths = [*bundles(folder), str(program(folder / "double.onnx"))]
    # At debug level, so that a text that is logged anywhere would be seen.
    with running("serve", *paths, "--port", "0", "--log-level", "debug", folder=folder) as agent:
        yield Edge(agent)


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    made = Scene(tmp_path_factory.mktemp("platform"), "amqtt")
    try:
        made.run(made.start())
        made.run(made.gateway_answers())
        yield made
    except BaseException:
        print(made.logs())
        raise
    finally:
        made.close()


@pytest.fixture(scope="session")
def doors(platform: Scene) -> dict[str, Door]:
    """Every process of the platform by name."""
    found = {f"{name}": Door(_port(platform.platform.edge_url(name))) for name in platform.platform.edges}
    for file in (platform.folder / "cloud" / "run").glob("*.json"):
        told = json.loads(file.read_text())
        if isinstance(told, dict) and "url" in told:
            found[file.stem] = Door(_port(told["url"]))
    return found


@pytest.fixture(scope="session")
def gateway(platform: Scene) -> Door:
    return Door(_port(platform.platform.gateway), Authorization=f"Bearer {platform.fleet.token}")


def _port(url: str) -> int:
    found = re.search(r":(\d+)$", url)
    assert found, url
    return int(found.group(1))
