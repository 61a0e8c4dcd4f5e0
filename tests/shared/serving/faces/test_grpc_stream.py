"""`ModelStreamInfer`: order, pieces, failures that leave the stream standing, and streams that end."""

import asyncio
import contextlib
import queue
import threading
from pathlib import Path

import grpc
import msgspec
import numpy as np
import tritonclient.grpc as triton

from shared.bundle.manifest import TaskKind
from shared.serving.faces import grpc_stream
from shared.serving.faces.grpc_messages import INFERENCE
from shared.serving.sessions.scripted import ScriptedSession
from tests.shared.serving.bundles import TENANT, until
from tests.shared.serving.echo import INPUTS, load, manifest_for, piece_of, playing, scripted
from tests.shared.serving.faces.grpc_served import SERVICE, infer, served, text, with_models


@contextlib.asynccontextmanager
async def streaming(session, **options):
    """A server with two models that play the script: `gen` writes a text, `whole` answers at once."""
    async with scripted(session) as made:
        await load(made, Path(), msgspec.structs.replace(manifest_for("gen"), task=TaskKind.TEXT_GENERATION))
        await load(made, Path(), manifest_for("whole"))
        made.activate(TENANT, {"gen": "1.0.0", "whole": "1.0.0"})
        async with served(made, **options) as server:
            yield server


def whole(**fields) -> bytes:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1], "contents": {"fp32_contents": [1]}}
    return infer(model_name="whole", inputs=[tensor], **fields)


def opened(server, **options):
    return server.channel.stream_stream(SERVICE + "ModelStreamInfer")(**options)


async def answered(call):
    """The next answer: error, id, text, and whether it is the last of its request."""
    data = await call.read()
    if data is grpc.aio.EOF:
        return None
    message = INFERENCE["ModelStreamInferResponse"].FromString(data)
    answer = message.infer_response
    said = answer.outputs[0].contents.bytes_contents[0].decode() if answer.outputs else None
    return message.error_message, answer.id, said, answer.parameters["triton_final_response"].bool_param


def test_text_comes_piece_by_piece_and_answers_in_order():
    async def main():
        async with streaming(playing("你", "好", ".")) as server:
            call = opened(server)
            await call.write(infer(model_name="gen", id="a", **text("x")))
            assert [await answered(call) for _ in range(3)] == [
                ("", "a", "你", False),
                ("", "a", "好", False),
                ("", "a", ".", True),
            ]
            for name in "bcd":
                await call.write(whole(id=name))
            # Two texts are not streamed: they come whole, in their turn.
            await call.write(infer(model_name="gen", id="e", **text("x", "y")))
            assert [await answered(call) for _ in range(4)] == [("", name, "你好.", True) for name in "bcde"]
            await call.done_writing()
            assert await answered(call) is None
            assert await call.code() is grpc.StatusCode.OK

    asyncio.run(main())


def test_a_request_that_fails_leaves_the_stream_standing(tmp_path):
    async def check(server):
        call = opened(server)
        await call.write(infer(model_name="nope", id="a", **text("好")))
        await call.write(b"\xff" * 10)
        await call.write(infer(model_name="adder", id="c"))
        await call.write(infer(model_name="ner", id="d", **text("好")))
        told = [await answered(call) for _ in range(4)]
        assert [(each[1], each[3]) for each in told] == [("a", True), ("", True), ("c", True), ("d", True)]
        says = ["unknown model", "not a message", "missing input", ""]
        assert all(part in each[0] for each, part in zip(told, says, strict=True))
        assert (told[3][0], told[3][2]) == ("", "[]")
        await call.write(infer(model_name="nope", **text("好")))
        failed = INFERENCE["ModelStreamInferResponse"].FromString(await call.read())
        parameters = failed.infer_response.parameters
        assert (parameters["code"].string_param, parameters["grpc_status"].int64_param) == ("not-found", 5)
        await call.done_writing()
        assert await answered(call) is None
        assert server.lines == []

    with_models(tmp_path, check)


def test_whole_answers_wait_for_their_turn_and_pieces_do_not():
    """The first of two whole answers is held up at the gate, a text behind both is not."""

    class Held:
        def __init__(self, engine):
            self.engine = engine
            self.gate = asyncio.Event()

        async def answer(self, request):
            if request.parameters.get("held"):
                await self.gate.wait()
            return await self.engine.answer(request)

        def stream(self, request):
            return self.engine.stream(request)

    holders = []

    def wrap(engine):
        holders.append(Held(engine))
        return holders[0]

    async def main():
        async with streaming(playing("."), wrap=wrap) as server:
            call = opened(server)
            await call.write(whole(id="held", parameters={"held": {"bool_param": True}}))
            await call.write(whole(id="second"))
            await call.write(infer(model_name="gen", id="text", **text("x")))
            assert (await answered(call))[1] == "text"
            holders[0].gate.set()
            assert [(await answered(call))[1] for _ in range(2)] == ["held", "second"]

    asyncio.run(main())


def test_a_client_that_goes_away_ends_the_computation():
    async def main():
        gate = threading.Event()
        gate.set()
        session = playing("x", "y", *("z" * 500), ".", gate=gate)
        async with streaming(session) as server:
            before = len(session.runs)
            session.started.clear()
            gate.clear()
            call = opened(server)
            await call.write(infer(model_name="gen", **text("x")))
            await asyncio.to_thread(session.started.wait, 5)
            call.cancel()
            await until(lambda: server.engine.statistics(TENANT, "gen", "1.0.0").fail.count == 1)
            gate.set()
            await until(lambda: server.engine.load_of(TENANT, "gen", "1.0.0").running == 0)
            assert len(session.runs) - before < 500
            assert server.lines == []

    asyncio.run(main())


def test_a_failure_in_the_middle_of_a_text_is_told():
    pieces = ["你", "."]

    async def main():
        async with streaming(ScriptedSession(lambda feeds: piece_of(pieces, feeds), inputs=INPUTS)) as server:
            pieces[1] = "x"
            call = opened(server)
            await call.write(infer(model_name="gen", id="a", **text("x")))
            told = [await answered(call) for _ in range(3)]
            assert [each[2] for each in told] == ["你", "x", None]
            assert told[2][0]
            assert told[2][1] == "a"
            pieces[1] = "."
            await call.write(infer(model_name="gen", id="b", **text("x")))
            assert [(await answered(call))[2] for _ in range(2)] == ["你", "."]

    asyncio.run(main())


def test_a_stream_has_so_many_requests_in_flight_and_no_more(monkeypatch):
    monkeypatch.setattr(grpc_stream, "IN_FLIGHT", 3)

    async def main():
        gate = threading.Event()
        gate.set()
        session = playing(".", gate=gate)
        async with streaming(session) as server:
            gate.clear()
            call = opened(server)
            for i in range(10):
                await call.write(whole(id=str(i)))

            def inside():
                load = server.engine.load_of(TENANT, "whole", "1.0.0")
                return load.running + load.queued

            await until(lambda: inside() == 3)
            other = opened(server)
            await other.write(whole(id="other"))
            await until(lambda: inside() == 4)
            gate.set()
            assert [(await answered(call))[1] for _ in range(10)] == [str(i) for i in range(10)]
            assert (await answered(other))[1] == "other"

    asyncio.run(main())


def test_a_stopping_server_ends_idle_streams_and_finishes_the_rest():
    async def main():
        gate = threading.Event()
        gate.set()
        session = playing("你", ".", gate=gate)
        async with streaming(session) as server:
            session.started.clear()
            gate.clear()
            idle, busy, done = opened(server), opened(server), opened(server)
            await done.write(whole(id="last"))
            await done.done_writing()
            await busy.write(infer(model_name="gen", id="a", **text("x")))
            await asyncio.to_thread(session.started.wait, 5)
            await until(lambda: sum(server.engine.load_of(TENANT, name).running for name in ("gen", "whole")) == 2)
            # What comes later on the same connection is answered later: the end of `done` is known by now.
            await server.ask("ServerLive")
            await server.server.stop_accepting()
            assert await idle.code() is grpc.StatusCode.UNAVAILABLE
            gate.set()
            assert [(await answered(busy))[2] for _ in range(2)] == ["你", "."]
            assert await busy.code() is grpc.StatusCode.UNAVAILABLE
            # Who had asked everything got everything.
            assert (await answered(done))[1] == "last"
            assert await answered(done) is None
            assert await done.code() is grpc.StatusCode.OK
            late = opened(server)
            assert await late.code() is grpc.StatusCode.UNAVAILABLE
            assert await server.server.drain(5.0)

    asyncio.run(main())


def test_who_may_not_ask_is_told_for_each_request(tmp_path):
    async def check(server):
        call = opened(server, metadata=(("x-tideline-tenant", "nobody"), ("x-request-id", "s-1")))
        await call.write(infer(model_name="ner", id="a", **text("好")))
        error, name, _, _ = await answered(call)
        assert ("who is asking" in error, name) == (True, "a")
        await call.done_writing()
        assert await answered(call) is None
        assert dict(await call.trailing_metadata())["x-request-id"] == "s-1"

    with_models(tmp_path, check)


def test_tritonclient_streams():
    def check(client):
        results = queue.Queue()
        client.start_stream(lambda result, error: results.put((result, error)))
        prompt = triton.InferInput("text", [1], "BYTES")
        prompt.set_data_from_numpy(np.array(["x"], dtype=object))
        client.async_stream_infer("gen", [prompt], request_id="a", enable_empty_final_response=True)
        got = [results.get(timeout=30) for _ in range(3)]
        assert all(error is None for _, error in got)
        assert b"".join(result.as_numpy("text")[0] for result, _ in got) == "你好.".encode()
        finals = [result.get_response().parameters["triton_final_response"].bool_param for result, _ in got]
        assert finals == [False, False, True]
        client.async_stream_infer("nope", [prompt])
        result, error = results.get(timeout=30)
        assert result is None
        assert "unknown model" in error.message()
        client.stop_stream()
        assert results.empty()
        assert client.get_model_config("gen", as_json=True)["config"]["model_transaction_policy"] == {"decoupled": True}

    async def main():
        async with streaming(playing("你", "好", ".")) as server:
            await server.with_triton(check)

    asyncio.run(main())


def test_a_stream_whose_deadline_passes_ends():
    async def main():
        gate = threading.Event()
        gate.set()
        session = playing(".", gate=gate)
        async with streaming(session) as server:
            gate.clear()
            call = opened(server, timeout=0.2)
            await call.write(whole())
            assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            await until(lambda: server.engine.load_of(TENANT, "whole", "1.0.0").queued == 0)
            gate.set()

    asyncio.run(main())
