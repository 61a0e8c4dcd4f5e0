"""`grpc.health.v1` as orchestrators probe it, and the server's own readiness."""

import asyncio

import grpc
import pytest

from shared.serving.faces.grpc_messages import HEALTH
from tests.shared.serving.bundles import TENANT, engine
from tests.shared.serving.echo import load, manifest_for, playing, scripted
from tests.shared.serving.faces.grpc_served import served

PATH = "/grpc.health.v1.Health/"


def request(service: str) -> bytes:
    return HEALTH["HealthCheckRequest"](service=service).SerializeToString()


def status_in(data: bytes) -> str:
    message = HEALTH["HealthCheckResponse"].FromString(data)
    return message.DESCRIPTOR.fields_by_name["status"].enum_type.values_by_number[message.status].name


async def checked(server, service: str) -> str:
    return status_in(await server.call(PATH + "Check", request(service)))


def watched(server, service: str):
    return server.channel.unary_stream(PATH + "Watch")(request(service))


def test_a_server_without_models_lives_and_is_not_ready():
    async def main():
        async with engine() as made, served(made) as server:
            for service in ("", "readiness", "inference.GRPCInferenceService"):
                assert await checked(server, service) == "NOT_SERVING"
            assert await checked(server, "liveness") == "SERVING"
            assert (await server.ask("ServerLive")).live
            assert not (await server.ask("ServerReady")).ready
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await checked(server, "nope")
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND

    asyncio.run(main())


def test_who_watches_is_told_of_every_change(tmp_path):
    async def main():
        async with scripted(playing(".")) as made, served(made) as server:
            watch, unknown = watched(server, ""), watched(server, "nope")
            assert status_in(await watch.read()) == "NOT_SERVING"
            assert status_in(await unknown.read()) == "SERVICE_UNKNOWN"
            await load(made, tmp_path, manifest_for())
            assert status_in(await watch.read()) == "SERVING"
            assert (await server.ask("ServerReady")).ready
            await made.unload(TENANT, "gen", "1.0.0")
            assert status_in(await watch.read()) == "NOT_SERVING"
            await load(made, tmp_path, manifest_for())
            assert status_in(await watch.read()) == "SERVING"
            # A server that stops says so, and lets go of who watches.
            await server.server.stop_accepting()
            assert status_in(await watch.read()) == "NOT_SERVING"
            assert await watch.read() is grpc.aio.EOF
            assert await unknown.read() is grpc.aio.EOF
            assert await server.server.drain(5.0)

    asyncio.run(main())


def test_a_watch_with_bytes_that_are_no_message_is_refused():
    async def main():
        async with engine() as made, served(made) as server:
            call = server.channel.unary_stream(PATH + "Watch")(b"\xff")
            assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT

    asyncio.run(main())
