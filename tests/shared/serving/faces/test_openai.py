import asyncio
import base64
import json
import threading
from pathlib import Path

import numpy as np
import pytest

from shared.bundle.manifest import Manifest, TaskKind, Variant
from shared.serving.sessions.scripted import ScriptedSession
from tests.shared.serving.bundles import TENANT, until
from tests.shared.serving.echo import INPUTS, piece_of, playing, scripted
from tests.shared.serving.faces.server import everything, serving


@pytest.fixture
def with_server(tmp_path):
    def run(check):
        async def main():
            async with everything(tmp_path) as server:
                await check(server)

        asyncio.run(main())

    return run


def test_embeddings_as_floats_and_base64(with_server):
    async def check(server):
        status, headers, body = await server.post("/v1/embeddings", {"model": "emb", "input": "好"})
        assert status == 200
        assert body["object"] == "list"
        (item,) = body["data"]
        assert (item["object"], item["index"], len(item["embedding"])) == ("embedding", 0, 4)
        assert body["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
        assert headers["X-Tideline-Where"] == "local"
        asked = {"model": "emb", "input": ["好", "坏"], "encoding_format": "base64", "dimensions": 4, "user": "u"}
        _, _, body = await server.post("/v1/embeddings", asked)
        raw = base64.b64decode(body["data"][0]["embedding"])
        np.testing.assert_allclose(np.frombuffer(raw, "<f4"), item["embedding"], rtol=1e-6)
        assert [entry["index"] for entry in body["data"]] == [0, 1]

    with_server(check)


def test_every_error_has_openais_envelope(with_server):
    async def check(server):
        cases = [
            ({"input": "好"}, 400, "model"),
            ({"model": "emb"}, 400, "input"),
            ({"model": "emb", "input": [1, 2]}, 400, "input[0]"),
            ({"model": "emb", "input": []}, 400, "input"),
            ({"model": "emb", "input": 3}, 400, "input"),
            ({"model": "emb", "input": ""}, 422, "text"),
            ({"model": "emb", "input": "好", "encoding_format": "hex"}, 400, "encoding_format"),
            ({"model": "emb", "input": "好", "dimensions": 3}, 400, "dimensions"),
            ({"model": "nope", "input": "好"}, 404, "model"),
            ({"model": "ner", "input": "好"}, 422, "model"),
        ]
        for document, expected, param in cases:
            status, _, body = await server.post("/v1/embeddings", document)
            assert (status, set(body)) == (expected, {"error"}), document
            assert set(body["error"]) == {"message", "type", "param", "code"}
            assert body["error"]["param"] == param
            assert body["error"]["type"] == "invalid_request_error"
        for path in ("/v1/completions", "/v1/chat/completions"):
            status, _, body = await server.post(
                path, {"model": "ner", "prompt": "x", "messages": [{"role": "user", "content": "x"}]}
            )
            assert (status, body["error"]["param"]) == (422, "model")
        status, _, body = await server.post("/v1/embeddings", {}, headers={"X-Tideline-Tenant": "nobody"})
        assert (status, body["error"]["type"]) == (401, "authentication_error")
        assert (await server.get("/v1/models/nope"))[0] == 404
        _, _, body = await server.get("/v1/models")
        assert {entry["id"] for entry in body["data"]} >= {"emb", "ner"}
        _, _, body = await server.get("/v1/models/emb")
        assert (body["id"], body["object"]) == ("emb", "model")

    with_server(check)


def generator(session):
    """Run a check against a server whose one model writes what `session` plays."""

    def run(check):
        async def main():
            variant = Variant(name="cpu", runtime="onnx", precision="fp32", files=("m",))
            manifest = Manifest(
                name="gen", version="1.0.0", task=TaskKind.TEXT_GENERATION, variants=(variant,), files=()
            )
            async with scripted(session) as made:
                await made.load(TENANT, manifest, "d" * 64, Path(), "cpu")
                async with serving(made) as server:
                    await check(server)

        asyncio.run(main())

    return run


def test_completions_at_once():
    async def check(server):
        _, _, body = await server.post("/v1/completions", {"model": "gen", "prompt": "x", "max_tokens": 5})
        assert body["object"] == "text_completion"
        assert body["choices"][0] == {"index": 0, "logprobs": None, "finish_reason": "stop", "text": "你好."}
        assert body["usage"]["completion_tokens"] == 3
        turns = [{"role": "user", "content": "x"}]
        _, _, body = await server.post("/v1/chat/completions", {"model": "gen", "messages": turns})
        assert body["choices"][0]["message"] == {"role": "assistant", "content": "你好."}
        status, _, body = await server.post("/v1/completions", {"model": "gen", "prompt": "x", "n": 2})
        assert (status, body["error"]["param"]) == (400, "n")
        status, _, body = await server.post("/v1/chat/completions", {"model": "gen", "messages": []})
        assert (status, body["error"]["param"]) == (400, "messages")
        many = {"model": "gen", "prompt": ["x", "y"], "stream": True}
        status, _, body = await server.post("/v1/completions", many)
        assert (status, body["error"]["code"]) == (422, "unprocessable")
        _, _, body = await server.post("/predict", {"task_type": "generation", "text": "x"})
        assert body["result"]["text"] == "你好."

    generator(playing("你", "好", "."))(check)


def test_completions_stream_as_server_sent_events():
    async def check(server):
        asked = {"model": "gen", "messages": [{"role": "user", "content": "x"}], "stream": True}
        status, headers, raw = await server.post("/v1/chat/completions", asked)
        assert status == 200
        assert headers["Content-Type"].startswith("text/event-stream")
        assert headers["X-Tideline-Where"] == "local"
        assert headers["X-Request-Id"]
        events = [event.removeprefix("data: ") for event in raw.decode().split("\n\n") if event]
        assert events.pop() == "[DONE]"
        pieces = [json.loads(event) for event in events]
        assert {piece["object"] for piece in pieces} == {"chat.completion.chunk"}
        assert "".join(piece["choices"][0]["delta"]["content"] for piece in pieces) == "你好."
        assert [piece["choices"][0]["finish_reason"] for piece in pieces] == [None, None, "stop"]

    generator(playing("你", "好", "."))(check)


def test_a_failure_in_the_middle_of_a_stream_is_an_error_event():
    pieces = ["你", "."]

    async def check(server):
        pieces[1] = "x"
        status, _, raw = await server.post("/v1/completions", {"model": "gen", "prompt": "x", "stream": True})
        events = [event.removeprefix("data: ") for event in raw.decode().split("\n\n") if event]
        assert status == 200
        assert json.loads(events[-1])["error"]["type"] == "server_error"

    # Warming takes what a whole answer gives; the next text ends before it is finished.
    generator(ScriptedSession(lambda feeds: piece_of(pieces, feeds), inputs=INPUTS))(check)


def test_a_client_that_goes_away_ends_the_computation():
    gate = threading.Event()
    gate.set()
    session = ScriptedSession(lambda feeds: piece_of(script, feeds), inputs=INPUTS, gate=gate)
    script = ["."]

    async def check(server):
        script[:] = ["x"] * 500 + ["."]
        before = len(session.runs)
        session.started.clear()
        gate.clear()
        asked = {"model": "gen", "prompt": "x", "stream": True}
        asking = asyncio.ensure_future(server.post("/v1/completions", asked))
        await asyncio.to_thread(session.started.wait, 5)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await until(lambda: server.engine.statistics(TENANT, "gen", "1.0.0").fail.count == 1)
        gate.set()
        await until(lambda: server.engine.load_of(TENANT, "gen", "1.0.0").running == 0)
        assert len(session.runs) - before < 500

    generator(session)(check)
