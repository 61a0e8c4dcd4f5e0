"""The gRPC face against a real server: metadata, deadlines, refusals, bad bytes, and callers that go away."""

import asyncio
import threading
import uuid

import grpc
import pytest
from google.protobuf import duration_pb2

from shared.protocol.errors import Corrupt, Overloaded, Transient, Unavailable
from shared.serving.answer import Request
from shared.serving.faces.grpc_messages import INFERENCE, STATUS
from tests.shared.serving.bundles import TENANT, until
from tests.shared.serving.echo import load, manifest_for, playing, scripted
from tests.shared.serving.faces.grpc_served import infer, served, text, with_models


def test_metadata_is_http_headers_in_lower_case(tmp_path):
    asked: list[Request] = []

    class Remembering:
        def __init__(self, engine):
            self.engine = engine

        async def answer(self, request):
            asked.append(request)
            return await self.engine.answer(request)

    async def check(server):
        given = {
            "x-request-id": "r-1",
            "x-tideline-deadline-ms": "60000",
            "x-tideline-priority": "3",
            "x-tideline-privacy": "local-only",
            "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        }
        call = server.call("ModelInfer", infer(model_name="ner", **text("好")), metadata=tuple(given.items()))
        await call
        (request,) = asked
        assert (request.id, request.priority, request.privacy, request.tenant) == ("r-1", 3, "local-only", TENANT)
        assert request.trace == given["traceparent"]
        now = server.clock.monotonic()
        assert 0 < request.deadline - now <= 60
        told = dict(await call.trailing_metadata())
        assert told["x-request-id"] == "r-1"
        assert (told["x-tideline-where"], told["x-tideline-model"]) == ("local", "ner@1.0.0/cpu")
        assert float(told["x-tideline-compute-ms"]) > 0
        assert told["x-tideline-why"]
        assert "x-tideline-queue-ms" in told
        # gRPC's own deadline counts as well, and the shorter of the two.
        options = {"metadata": (("x-tideline-deadline-ms", "50000"),), "timeout": 40}
        await server.call("ModelInfer", infer(model_name="ner", **text("好")), **options)
        assert 0 < asked[1].deadline - now <= 42
        options = {"metadata": (("x-tideline-deadline-ms", "20000"),), "timeout": 40}
        await server.call("ModelInfer", infer(model_name="ner", **text("好")), **options)
        assert 0 < asked[2].deadline - now <= 22
        await server.call("ModelInfer", infer(model_name="ner", **text("好")))
        assert asked[3].deadline is None
        call = server.call("ServerLive", metadata=(("x-request-id", "not one id"),))
        await call
        uuid.UUID(dict(await call.trailing_metadata())["x-request-id"])

    with_models(tmp_path, check, wrap=Remembering)


class Failing:
    """An answer that raises what it is told to."""

    error: BaseException

    async def answer(self, request):
        raise self.error


def status_in(error):
    """The details of a failed call, by their kind."""
    (raw,) = [value for name, value in error.trailing_metadata() if name == "grpc-status-details-bin"]
    status = STATUS["Status"].FromString(raw)
    kinds = {detail.type_url.rpartition(".")[2]: detail.value for detail in status.details}
    return status, STATUS["ErrorInfo"].FromString(kinds["ErrorInfo"]), kinds.get("RetryInfo")


def test_errors_carry_their_code_and_when_to_come_back(tmp_path):
    failing = Failing()

    async def failed(server):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.call("ModelInfer", infer(model_name="ner", **text("好")), metadata=(("x-request-id", "r-1"),))
        assert dict(caught.value.trailing_metadata())["x-request-id"] == "r-1"
        return caught.value

    async def check(server):
        failing.error = Overloaded("too busy", retry_after=1.5, code="queue-full")
        error = await failed(server)
        assert (error.code(), error.details()) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "too busy")
        assert dict(error.trailing_metadata())["grpc-retry-pushback-ms"] == "1500"
        status, info, retry = status_in(error)
        assert (status.code, status.message, info.reason, info.domain) == (8, "too busy", "queue-full", "tideline")
        delay = duration_pb2.Duration.FromString(STATUS["RetryInfo"].FromString(retry).retry_delay.SerializeToString())
        assert delay.ToMilliseconds() == 1500
        for error, code in (
            (Transient("not now", why=Unavailable.NOT_READY, retry_after=2.0), grpc.StatusCode.UNAVAILABLE),
            (Transient("too late", why=Unavailable.DEADLINE), grpc.StatusCode.DEADLINE_EXCEEDED),
            (Corrupt("broken"), grpc.StatusCode.DATA_LOSS),
        ):
            failing.error = error
            answer = await failed(server)
            assert (answer.code(), answer.details()) == (code, error.message)
            assert (status_in(answer)[2] is None) == (getattr(error, "retry_after", None) is None)
        # A bug says nothing of itself, and is in the log.
        failing.error = RuntimeError("secret")
        answer = await failed(server)
        assert answer.code() is grpc.StatusCode.INTERNAL
        assert "secret" not in answer.details()
        assert [line["event"] for line in server.lines] == ["request failed", "unexpected error in a request"]
        assert server.lines[1]["exc_info"] is failing.error
        assert server.lines[1]["request_id"] == "r-1"
        # However long a message is, it arrives.
        failing.error = Transient("好" * 5000, why=Unavailable.NOT_READY)
        answer = await failed(server)
        assert answer.code() is grpc.StatusCode.UNAVAILABLE
        assert set(answer.details()) == {"好"}

    with_models(tmp_path, check, wrap=lambda _: failing)


def test_bytes_that_are_no_message_are_refused(tmp_path):
    async def check(server):
        for method in ("ModelInfer", "ModelReady", "ModelMetadata", "/grpc.health.v1.Health/Check"):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await server.call(method, b"\xff" * 20)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert "not a message" in caught.value.details()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.call("ModelExplode")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        await server.ask("ModelInfer", model_name="ner", **text("好"))
        assert server.lines == []

    with_models(tmp_path, check)


def test_bytes_that_are_no_grpc_at_all_do_no_harm(tmp_path):
    async def check(server):
        waiting = server.call("ModelInfer", infer(model_name="ner", **text("好")))
        for sent in (b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 4096, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 64):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(sent)
            await asyncio.wait_for(reader.read(), 30)
            writer.close()
        await waiting
        await server.ask("ModelInfer", model_name="ner", **text("好"))

    with_models(tmp_path, check)


def test_a_message_of_too_many_parts_is_refused(tmp_path):
    async def check(server):
        with pytest.raises(grpc.aio.AioRpcError, match="too many parts") as caught:
            await server.call("ModelInfer", b"\x2a\x00" * 200_000)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT

    with_models(tmp_path, check)


@pytest.mark.parametrize("compression", [None, grpc.Compression.Gzip])
def test_a_message_that_is_too_large_is_refused_unread(tmp_path, compression):
    async def check(server):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.call("ModelInfer", bytes(1 << 20), compression=compression)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await server.ask("ModelInfer", model_name="ner", **text("好"))

    with_models(tmp_path, check, max_body=65536)


def test_who_goes_away_or_is_late_is_forgotten(tmp_path):
    async def main():
        gate = threading.Event()
        session = playing(".", gate=gate)
        async with scripted(session) as made:
            await load(made, tmp_path, manifest_for())
            made.activate(TENANT, {"gen": "1.0.0"})
            tensor = {"name": "x", "datatype": "FP32", "shape": [1], "contents": {"fp32_contents": [1]}}
            message = infer(model_name="gen", inputs=[tensor])

            def depth():
                load = made.load_of(TENANT, "gen", "1.0.0")
                return load.running, load.queued

            async with served(made) as server:
                first = server.call("ModelInfer", message)
                await asyncio.to_thread(session.started.wait, 5)
                waiting = server.call("ModelInfer", message)
                await until(lambda: depth() == (1, 1))
                waiting.cancel()
                await until(lambda: depth() == (1, 0))
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await server.call("ModelInfer", message, metadata=(("x-tideline-deadline-ms", "50"),))
                assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
                assert "deadline" in caught.value.details()
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await server.call("ModelInfer", message, timeout=0.05)
                assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
                await until(lambda: depth() == (1, 0))
                gate.set()
                await first
                assert len(session.runs) == 1
                await server.call("ModelInfer", message)

    asyncio.run(main())


def test_a_stopping_server_finishes_what_it_has(tmp_path):
    async def main():
        gate = threading.Event()
        session = playing(".", gate=gate)
        async with scripted(session) as made:
            await load(made, tmp_path, manifest_for())
            made.activate(TENANT, {"gen": "1.0.0"})
            tensor = {"name": "x", "datatype": "FP32", "shape": [1], "contents": {"fp32_contents": [1]}}
            async with served(made) as server:
                first = server.call("ModelInfer", infer(model_name="gen", inputs=[tensor]))
                await asyncio.to_thread(session.started.wait, 5)
                await server.server.stop_accepting()
                assert not await server.server.drain(0.0)
                for method in ("ModelInfer", "ServerLive"):
                    with pytest.raises(grpc.aio.AioRpcError, match="the server is stopping") as caught:
                        await server.call(method)
                    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
                gate.set()
                assert INFERENCE["ModelInferResponse"].FromString(await first).model_name == "gen"
                assert await server.server.drain(5.0)

    asyncio.run(main())
