"""Where gRPC listens, and what is said where it does not."""

import asyncio
import socket

import grpc
import pytest

from shared.io.clock import SystemClock
from shared.protocol.errors import Refused
from shared.serving.faces.context import GrpcPorts
from shared.serving.faces.grpc_site import OFF, GrpcSite, port_for
from shared.serving.faces.readiness import Readiness
from tests.shared.serving.bundles import engine, log_sink


async def anybody(*_):
    return "default"


def ports(made):
    log, lines = log_sink()
    clock, readiness = SystemClock(), Readiness(catalog=made)
    return GrpcPorts(made, made, clock, readiness, anybody, log), lines


@pytest.mark.parametrize(
    ("asked", "http", "expected"),
    [(None, 8090, 8091), (None, 0, 0), (None, 65535, 0), (0, 8090, 0), (9000, 8090, 9000), (OFF, 8090, OFF)],
)
def test_the_port_is_the_one_after_https_where_none_was_asked_for(asked, http, expected):
    assert port_for(asked, http) == expected


async def live(port: int) -> bool:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        return await channel.unary_unary("/inference.GRPCInferenceService/ServerLive")(b"") == b"\x08\x01"


def test_a_port_that_is_taken():
    async def main():
        async with engine() as made:
            with socket.socket() as taken:
                taken.bind(("127.0.0.1", 0))
                taken.listen()
                port = taken.getsockname()[1]
                given, lines = ports(made)
                site = GrpcSite()
                with pytest.raises(Refused, match=f"in use; field grpc_port; got '127.0.0.1:{port}'"):
                    await site.start(given, host="127.0.0.1", asked=port, http=0)
                assert lines == []
                # Nobody asked for this very port: the server serves on without gRPC.
                await site.start(given, host="127.0.0.1", asked=None, http=port - 1)
                assert "in use" in site.details()["grpc"]["off"]
                assert [line["event"] for line in lines] == ["no gRPC"]
                assert site.port is None
                assert await site.drain(0.0)
                await site.stop_accepting()
                await site.close()
            first, second = GrpcSite(), GrpcSite()
            await first.start(given, host="127.0.0.1", asked=0, http=0)
            assert first.details() == {"grpc": {"port": first.port}}
            with pytest.raises(Refused):
                await second.start(given, host="127.0.0.1", asked=first.port, http=0)
            assert await live(first.port)
            await first.close()
            await first.close()
            await second.start(given, host="127.0.0.1", asked=first.port, http=0)
            assert await live(second.port)
            await second.close()

    asyncio.run(main())


def test_an_address_that_is_not_ours_is_refused():
    async def main():
        async with engine() as made:
            given, _ = ports(made)
            with pytest.raises(Refused, match="cannot listen"):
                await GrpcSite().start(given, host="192.0.2.1", asked=50051, http=0)

    asyncio.run(main())


def test_over_ipv6():
    async def main():
        async with engine() as made:
            site = GrpcSite()
            await site.start(ports(made)[0], host="::1", asked=0, http=0)
            async with grpc.aio.insecure_channel(f"[::1]:{site.port}") as channel:
                assert await channel.unary_unary("/inference.GRPCInferenceService/ServerLive")(b"") == b"\x08\x01"
            await site.close()

    asyncio.run(main())


def test_switched_off():
    async def main():
        async with engine() as made:
            given, lines = ports(made)
            site = GrpcSite()
            await site.start(given, host="127.0.0.1", asked=OFF, http=8090)
            assert (site.details(), lines) == ({"grpc": {"off": "switched off"}}, [])

    asyncio.run(main())
