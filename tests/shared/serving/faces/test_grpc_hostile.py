"""Clients of gRPC that hold back, pile up, or ask twice."""

import asyncio
import struct

import grpc
import pytest

from shared.serving.faces.grpc_messages import INFERENCE
from tests.shared.serving.faces.grpc_served import SERVICE, infer, text, with_models

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADERS, DATA, SETTINGS = 1, 0, 4
END_HEADERS, END_STREAM = 4, 1


def frame(kind, flags, stream, payload):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def call_begins(method):
    """What a client sends before the first message of a call."""
    fields = {
        ":method": "POST", ":scheme": "http", ":path": SERVICE + method, ":authority": "x",
        "content-type": "application/grpc", "te": "trailers",
    }  # fmt: skip
    packed = b"".join(
        b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in fields.items()
    )
    return PREFACE + frame(SETTINGS, 0, 0, b"") + frame(HEADERS, END_HEADERS, 1, packed)


async def told(reader, what):
    """Read until the server has said `what`."""
    said = b""
    while what not in said:
        data = await asyncio.wait_for(reader.read(65536), 30)
        assert data, said
        said += data


@pytest.mark.parametrize("method", ["ModelInfer", "ServerLive"])
@pytest.mark.parametrize("sent", [b"", b"\0" + struct.pack(">I", 100) + b"x" * 10])
def test_a_message_that_does_not_come_ends_its_call(tmp_path, method, sent):
    async def check(server):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(call_begins(method) + (frame(DATA, 0, 1, sent) if sent else b""))
        await server.ask("ModelInfer", model_name="ner", **text("好"))
        await told(reader, b"came too slowly")
        assert await server.server.drain(30)
        await server.ask("ModelInfer", model_name="ner", **text("好"))
        writer.close()
        assert server.lines == []

    with_models(tmp_path, check, message_s=0.3)


def test_a_call_without_a_message_is_refused(tmp_path):
    async def check(server):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(call_begins("ModelInfer") + frame(DATA, END_STREAM, 1, b""))
        await told(reader, b"no message")
        writer.close()

    with_models(tmp_path, check)


def test_more_connections_than_there_may_be_are_closed_and_the_others_go_on(tmp_path):
    async def check(server):
        await server.ask("ServerLive")
        made = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(64)]
        # Who was taken is told the server's settings; the others are told nothing.
        told = await asyncio.wait_for(
            asyncio.gather(*(reader.read(1) for reader, _ in made), return_exceptions=True), 30
        )
        taken = [each for each in told if each == b"\0"]
        assert 0 < len(taken) <= 16
        assert all(each == b"" or isinstance(each, ConnectionError) for each in told if each != b"\0")
        await server.ask("ModelInfer", model_name="ner", **text("好"))
        for _, writer in made:
            writer.close()

    with_models(tmp_path, check, connections=16)


def test_one_id_twice_in_flight_is_answered_twice(tmp_path):
    async def check(server):
        sent = infer(model_name="ner", id="twin", **text("王明去北京"))
        metadata = (("x-request-id", "twin"),)
        answers = await asyncio.gather(*(server.call("ModelInfer", sent, metadata=metadata) for _ in range(8)))
        found = [INFERENCE["ModelInferResponse"].FromString(answer) for answer in answers]
        assert {answer.id for answer in found} == {"twin"}
        assert len({answer.outputs[0].contents.bytes_contents[0] for answer in found}) == 1

    with_models(tmp_path, check)


X = {"name": "x", "datatype": "FP32"}
FLOATS = {"contents": {"fp32_contents": [1, 2, 3]}}
BAD = [
    ({"inputs": [X | {"shape": [1 << 40, 1 << 40]}], "raw_input_contents": [b"1234"]}, "too many elements"),
    ({"inputs": [X | {"shape": [0, 1 << 62]}], "raw_input_contents": [b""]}, "too many elements"),
    ({"inputs": [X | {"shape": [1] * 70}], "raw_input_contents": [b"1234"]}, "too many dimensions"),
    ({"inputs": [X | {"shape": [-1, -3]}], "raw_input_contents": [b"1234"]}, "negative dimension"),
    ({"inputs": [X | {"shape": [1, 3]}], "raw_input_contents": [b"1234"]}, "do not fill"),
    ({"inputs": [X | {"shape": [1, 3]} | FLOATS], "outputs": [{"name": "nope"}]}, "unknown output"),
    ({"inputs": [X | {"shape": [1, 3]} | FLOATS] * 2}, "stands twice"),
    (
        {
            "inputs": [X | {"shape": [1, 3]} | FLOATS],
            "outputs": [{"name": "y", "parameters": {"classification": {"int64_param": 2}}}],
        },
        "classification is not offered",
    ),
    (
        {"inputs": [X | {"shape": [1, 3]} | FLOATS], "parameters": {"sequence_id": {"int64_param": 7}}},
        "sequences are not offered",
    ),
]


def test_tensors_that_lie_are_refused_by_name(tmp_path):
    async def check(server):
        for fields, says in BAD:
            with pytest.raises(grpc.aio.AioRpcError, match=says) as caught:
                await server.ask("ModelInfer", model_name="adder", **fields)
            assert caught.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED)
        await server.ask("ModelInfer", model_name="adder", inputs=[X | {"shape": [1, 3]} | FLOATS])
        assert server.lines == []

    with_models(tmp_path, check)


def test_the_repository_is_read_only_and_says_so(tmp_path):
    async def check(server):
        for method in ("RepositoryModelLoad", "RepositoryModelUnload"):
            with pytest.raises(grpc.aio.AioRpcError, match="read-only") as caught:
                await server.ask(method, model_name="ner")
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        await server.ask("ModelInfer", model_name="ner", **text("好"))

    with_models(tmp_path, check)
