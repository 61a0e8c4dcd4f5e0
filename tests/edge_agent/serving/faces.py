"""A device behind every face it has, each on a real socket, and a wire to its gateway that is listened to."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path

import aiohttp
import numpy as np
import tritonclient.grpc.aio as triton
from aiohttp import web
from tritonclient.utils import InferenceServerException

from edge_agent.serving.mqtt_site import MqttSite, Named
from shared.bundle.manifest import TaskKind
from shared.io.logs import build
from shared.io.mqtt import Server
from shared.io.web import middlewares
from shared.serving.faces import http
from shared.serving.faces.context import GrpcPorts, Ports
from shared.serving.faces.grpc_site import GrpcSite
from shared.serving.faces.mqtt import MqttFace
from shared.serving.faces.readiness import Readiness
from tests.edge_agent.integrator import Integrator, integrator
from tests.edge_agent.serving.world import MODEL, TENANT, VERSION, Device, manifest

VECTORS, WORDS = "vectors", "words"
DEVICE = "lamp"
Tagged = Mapping[str, str]
Face = Callable[[str, str, Tagged], Awaitable[int]]
"""Asks with a text, an id and fields; gives an HTTP status, 0 where gRPC refuses."""


class Wire:
    """A TCP relay before the gateway that keeps every byte it is sent."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.seen = bytearray()
        self.connections = 0
        self.url = ""
        self._pumps: set[asyncio.Task[None]] = set()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        for source, sink, kept in ((reader, back, True), (there, writer, False)):
            pump = asyncio.create_task(self._pump(source, sink, kept=kept))
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, kept: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                if kept:
                    self.seen += data
                sink.write(data)
                await sink.drain()
        sink.close()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Wire"]:
        server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            for pump in tuple(self._pumps):
                pump.cancel()
            await asyncio.gather(*self._pumps, return_exceptions=True)


async def load_others(device: Device) -> None:
    """More models, for the faces that want vectors and words."""
    for name, task in ((VECTORS, TaskKind.TEXT_EMBEDDING), (WORDS, TaskKind.TEXT_GENERATION)):
        own = manifest(name=name, task=task)
        await device.engine.load(TENANT, own, "e" * 64, Path("/nowhere") / VERSION, "v")
    device.engine.activate(TENANT, dict.fromkeys((MODEL, VECTORS, WORDS), VERSION))


class Faces:
    """Asks the device through each of its faces."""

    def __init__(self, site: MqttSite, web_client: aiohttp.ClientSession, app: Integrator) -> None:
        self.site = site
        self._http = web_client
        self.app = app
        self.url = ""
        self.grpc: triton.InferenceServerClient | None = None

    @property
    def all(self) -> dict[str, Face]:
        return {
            "oip": self.oip,
            "predict": self.predict,
            "batch_predict": self.batch_predict,
            "embeddings": self.embeddings,
            "completions": self.completions,
            "streamed": self.streamed,
            "grpc": self.over_grpc,
            "mqtt": self.mqtt,
        }

    async def oip(self, text: str, id: str, fields: Tagged) -> int:
        tensor = {"name": "text", "datatype": "BYTES", "shape": [1], "data": [text]}
        return await self._post(f"/v2/models/{MODEL}/infer", {"inputs": [tensor]}, id, fields)

    async def predict(self, text: str, id: str, fields: Tagged) -> int:
        return await self._post("/predict", {"model": MODEL, "text": text}, id, fields)

    async def batch_predict(self, text: str, id: str, fields: Tagged) -> int:
        return await self._post("/batch_predict", {"model": MODEL, "texts": [text, text]}, id, fields)

    async def embeddings(self, text: str, id: str, fields: Tagged) -> int:
        return await self._post("/v1/embeddings", {"model": VECTORS, "input": text}, id, fields)

    async def completions(self, text: str, id: str, fields: Tagged) -> int:
        return await self._post("/v1/completions", {"model": WORDS, "prompt": text}, id, fields)

    async def streamed(self, text: str, id: str, fields: Tagged) -> int:
        body = {"model": WORDS, "messages": [{"role": "user", "content": text}], "stream": True}
        return await self._post("/v1/chat/completions", body, id, fields)

    async def over_grpc(self, text: str, id: str, fields: Tagged) -> int:
        assert self.grpc is not None
        tensor = triton.InferInput("text", [1], "BYTES")
        tensor.set_data_from_numpy(np.array([text.encode()], dtype=object))
        headers = {name.lower(): value for name, value in {**fields, "x-request-id": id}.items()}
        try:
            await self.grpc.infer(MODEL, [tensor], headers=headers)
        except InferenceServerException:
            return 0
        return 200

    async def mqtt(self, text: str, id: str, fields: Tagged) -> int:
        answer = await self.app.ask(MODEL, {"text": text}, id=id, **{n.lower(): v for n, v in fields.items()})
        return int(answer["status"])

    async def _post(self, path: str, body: object, id: str, fields: Tagged) -> int:
        headers = {"Content-Type": "application/json", "X-Request-Id": id, **fields}
        async with self._http.post(self.url + path, data=json.dumps(body), headers=headers) as answer:
            await answer.read()
            return answer.status


@contextlib.asynccontextmanager
async def faces_of(device: Device, broker: int, *, in_flight: int = 64) -> AsyncIterator[Faces]:
    """The faces, as `edge_agent.listening` puts them before the router."""

    async def principal_of(*_: object) -> str:
        return TENANT

    async def named() -> Named:
        return Named(TENANT, DEVICE)

    readiness, log = Readiness(catalog=device.engine), build("test", level="critical")
    app = web.Application(middlewares=middlewares(log))
    app.add_routes(
        http.routes(
            device.router,
            device.router,
            clock=device.clock,
            principal_of=principal_of,
            readiness=readiness,
            early=device.early,
            lag=device.lag,
        )
    )
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    grpc = GrpcSite()
    ports = GrpcPorts(device.router, device.router, device.clock, readiness, principal_of, log)
    await grpc.start(ports, host="127.0.0.1", asked=0, http=0)
    site = MqttSite(
        Server("127.0.0.1", broker, "", "", client_id=f"device-{broker}"),
        MqttFace(Ports(device.router, device.router, device.clock, principal_of, early=device.early), log),
        named,
        in_flight=in_flight,
        count=lambda topic, outcome: None,
        clock=device.clock,
        log=log,
        draw=lambda: 0.5,
    )
    serving = asyncio.create_task(site.run())
    try:
        async with (
            integrator(broker, tenant=TENANT, device=DEVICE) as own,
            aiohttp.ClientSession() as client,
            triton.InferenceServerClient(f"127.0.0.1:{grpc.port}") as stub,
        ):
            faces = Faces(site, client, own)
            faces.url, faces.grpc = f"http://127.0.0.1:{runner.addresses[0][1]}", stub
            await site._link.wait_connected()
            yield faces
    finally:
        device.gate.set()
        await site.drain(5)
        await site.close()
        await serving
        await grpc.close()
        await runner.cleanup()
