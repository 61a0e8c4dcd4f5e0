"""A real gRPC server over an engine with one tiny model of each task, and ways to call it."""

import asyncio
import contextlib

import grpc
import tritonclient.grpc as triton

from shared.io.clock import SystemClock
from shared.protocol.errors import Refusal, Refused
from shared.protocol.topics import Header
from shared.serving.faces.context import GrpcPorts
from shared.serving.faces.grpc_messages import INFERENCE
from shared.serving.faces.grpc_server import GrpcServer
from shared.serving.faces.readiness import Readiness
from tests.shared.serving.bundles import TENANT, log_sink
from tests.shared.serving.faces.server import everything

SERVICE = "/inference.GRPCInferenceService/"


async def tenant_in_metadata(headers, reads) -> str:
    tenant = headers.get(Header.TENANT, TENANT)
    if tenant == "nobody":
        raise Refused("who is asking?", kind=Refusal.UNAUTHENTICATED, field="authorization")
    return tenant


def text(*values, **fields):
    tensor = {"name": "text", "datatype": "BYTES", "shape": [len(values)]}
    tensor["contents"] = {"bytes_contents": [value.encode() for value in values]}
    return fields | {"inputs": [tensor]}


def infer(**fields) -> bytes:
    return INFERENCE["ModelInferRequest"](**fields).SerializeToString()


class Served:
    """Where the server listens, and a channel to it."""

    def __init__(self, engine, server, channel, port: int, lines: list) -> None:
        self.engine = engine
        self.server = server
        self.channel = channel
        self.port = port
        self.lines = lines
        self.clock = SystemClock()

    def call(self, method: str, message: bytes = b"", **options):
        """A unary call with bytes as they are; answers bytes."""
        return self.channel.unary_unary(method if method.startswith("/") else SERVICE + method)(message, **options)

    async def ask(self, method: str, **fields):
        """A unary call with messages of ours."""
        reply = await self.call(method, INFERENCE[f"{method}Request"](**fields).SerializeToString())
        return INFERENCE[f"{method}Response"].FromString(reply)

    async def with_triton(self, check):
        """Run `check(client)` in a thread, with an unmodified client."""

        def work():
            with triton.InferenceServerClient(f"127.0.0.1:{self.port}") as client:
                check(client)

        await asyncio.to_thread(work)


@contextlib.asynccontextmanager
async def served(engine, *, wrap=lambda engine: engine, **options):
    """Serve `engine`, or what `wrap` makes of it, over gRPC until the block ends."""
    log, lines = log_sink()
    ports = GrpcPorts(
        answer=wrap(engine),
        catalog=engine,
        clock=SystemClock(),
        readiness=Readiness(catalog=engine),
        tenant_of=tenant_in_metadata,
        log=log,
        **options,
    )
    server = GrpcServer(ports)
    port = await server.start(host="127.0.0.1", port=0)
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield Served(engine, server, channel, port, lines)
    finally:
        await server.close()


def with_models(folder, check, **options):
    """Run `check(served)` against all tiny models."""

    async def main():
        async with everything(folder) as http, served(http.engine, **options) as server:
            await check(server)

    asyncio.run(main())


def with_triton(folder, check, **options):
    """Run `check(client)` with an unmodified client against all tiny models."""
    with_models(folder, lambda server: server.with_triton(check), **options)
