"""Completions of a real decoder over HTTP: at once, as events, and what is refused by name."""

import asyncio
import json

import openai
import pytest

from tests.shared.serving.bundles import TENANT, engine
from tests.shared.serving.decoder import CONTEXT, decoder_bundle, weights, written
from tests.shared.serving.echo import load
from tests.shared.serving.faces.server import serving

TEXT = written(weights(), "你好", 64)
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
TURNS = [{"role": "user", "content": "你好"}]
CONVERSATION = "user: 你好\nassistant:"


@pytest.fixture
def writer(tmp_path):
    def run(check):
        async def main():
            async with engine() as made:
                await load(made, tmp_path / "w", decoder_bundle(tmp_path / "w"))
                made.activate(TENANT, {"writer": "1.0.0"})
                async with serving(made) as server:
                    await check(server)

        asyncio.run(main())

    return run


def events_of(raw: bytes) -> list:
    events = [event.removeprefix("data: ") for event in raw.decode().split("\n\n") if event]
    assert events.pop() == "[DONE]"
    return [json.loads(event) for event in events]


def test_completions_at_once(writer):
    async def check(server):
        _, _, body = await server.post(COMPLETIONS, {"model": "writer", "prompt": ["你好", "a"], "max_tokens": 9})
        assert [(each["index"], each["text"], each["finish_reason"]) for each in body["choices"]] == [
            (0, TEXT[:9], "length"),
            (1, written(weights(), "a", 9), "length"),
        ]
        assert body["usage"] == {"prompt_tokens": 3, "completion_tokens": 18, "total_tokens": 21}
        stop = {"model": "writer", "prompt": "你好", "stop": TEXT[5:7], "temperature": 0, "top_p": 1, "seed": 1}
        _, _, body = await server.post(COMPLETIONS, stop | {"user": "u", "n": 1, "echo": False, "logprobs": None})
        (choice,) = body["choices"]
        assert (choice["text"], choice["finish_reason"]) == (TEXT[: TEXT.index(TEXT[5:7])], "stop")
        long = {"model": "writer", "prompt": "你" * 200, "max_tokens": 4}
        status, _, body = await server.post(COMPLETIONS, long)
        assert (status, body["error"]["param"]) == (422, "prompt")
        assert str(CONTEXT - 1) in body["error"]["message"]
        _, _, body = await server.post(COMPLETIONS, long | {"parameters": {"truncate": True}})
        assert (body["choices"][0]["truncated"], body["usage"]["prompt_tokens"]) == (True, CONTEXT - 4)

    writer(check)


def test_chats_at_once(writer):
    async def check(server):
        expected = {"role": "assistant", "content": written(weights(), CONVERSATION, 7)}
        parts = [{"role": "user", "content": [{"type": "text", "text": "你"}, {"type": "text", "text": "好"}]}]
        for asked in (
            {"messages": TURNS, "max_tokens": 7},
            {"messages": parts, "max_completion_tokens": 7},
            {"messages": TURNS, "max_completion_tokens": 7, "max_tokens": 7},
        ):
            _, _, body = await server.post(CHAT, {"model": "writer"} | asked)
            assert body["choices"][0]["message"] == expected
        image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]
        for wrong, param in (
            ({"messages": image}, "messages[0].content[0].type"),
            ({"messages": TURNS, "max_tokens": 7, "max_completion_tokens": 8}, "max_tokens"),
            ({"messages": [{"role": "user", "content": "你" * 200}]}, "messages"),
        ):
            status, _, body = await server.post(CHAT, {"model": "writer"} | wrong)
            assert (status in (400, 422), body["error"]["param"]) == (True, param)

    writer(check)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", 0),
        ("temperature", 3),
        ("temperature", "hot"),
        ("top_p", 0),
        ("seed", 0.5),
        ("stop", []),
        ("echo", True),
        ("logprobs", 0),
        ("logprobs", True),
        ("top_logprobs", 5),
        ("best_of", 2),
        ("n", 2),
        ("n", True),
        ("suffix", "x"),
        ("logit_bias", {"1": 2}),
        ("presence_penalty", 0.5),
        ("frequency_penalty", -1),
        ("tools", [{"type": "function"}]),
        ("functions", [{"name": "f"}]),
        ("response_format", {"type": "json_object"}),
        ("modalities", ["text", "audio"]),
        ("stream_options", {"include_usage": True}),
        ("parameters", {"top_p": 2}),
        ("parameters", {"truncate": "yes"}),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(writer, name, value):
    async def check(server):
        for path, asked in ((COMPLETIONS, {"prompt": "你好"}), (CHAT, {"messages": TURNS})):
            for streamed in (False, True):
                if name == "stream_options" and streamed:
                    continue
                body = {"model": "writer", "stream": streamed, name: value} | asked
                status, headers, body = await server.post(path, body)
                param = name if name != "parameters" else next(iter(value))
                assert (status, body["error"]["param"], body["error"]["type"]) == (400, param, "invalid_request_error")
                assert "json" in headers["Content-Type"]

    writer(check)


def test_what_asks_for_nothing_is_no_obstacle(writer):
    async def check(server):
        nothing = {"n": 1, "best_of": 1, "echo": False, "suffix": "", "logprobs": False, "logit_bias": {}}
        nothing |= {"presence_penalty": 0, "frequency_penalty": 0.0, "tools": [], "response_format": {"type": "text"}}
        nothing |= {"stop": None, "seed": None, "metadata": {"a": "b"}, "store": True, "service_tier": "auto"}
        status, _, body = await server.post(COMPLETIONS, {"model": "writer", "prompt": "你好"} | nothing)
        assert (status, body["choices"][0]["text"]) == (200, TEXT)

    writer(check)


def test_pieces_come_as_events_and_the_usage_where_it_is_asked_for(writer):
    async def check(server):
        asked = {"model": "writer", "prompt": "你好", "stream": True, "max_tokens": 20}
        _, headers, raw = await server.post(COMPLETIONS, asked)
        pieces = events_of(raw)
        assert headers["Content-Type"].startswith("text/event-stream")
        assert "".join(piece["choices"][0]["text"] for piece in pieces) == TEXT[:20]
        assert [piece["choices"][0]["finish_reason"] for piece in pieces] == [None] * 19 + ["length"]
        assert all("usage" not in piece for piece in pieces)
        _, _, raw = await server.post(COMPLETIONS, asked | {"stream_options": {"include_usage": True}})
        *pieces, last = events_of(raw)
        assert all(piece["usage"] is None for piece in pieces)
        assert (last["choices"], last["object"], last["id"]) == ([], "text_completion", pieces[0]["id"])
        assert last["usage"] == {"prompt_tokens": 2, "completion_tokens": 20, "total_tokens": 22}
        _, _, raw = await server.post(CHAT, {"model": "writer", "messages": TURNS, "stream": True, "max_tokens": 3})
        deltas = [piece["choices"][0]["delta"] for piece in events_of(raw)]
        assert ["role" in delta for delta in deltas] == [True, False, False]
        assert "".join(delta["content"] for delta in deltas) == written(weights(), CONVERSATION, 3)
        long = asked | {"prompt": "你" * 200, "max_tokens": 2, "parameters": {"truncate": True}}
        _, _, raw = await server.post(COMPLETIONS, long)
        assert [piece["choices"][0].get("truncated") for piece in events_of(raw)] == [None, True]
        # The whole stop text is held back, and what only began like one is shown in the end.
        stops = asked | {"stop": [TEXT[7:9], TEXT[18:20] + "x"]}
        _, _, raw = await server.post(COMPLETIONS, stops)
        assert "".join(piece["choices"][0]["text"] for piece in events_of(raw)) == TEXT[: TEXT.index(TEXT[7:9])]
        _, _, raw = await server.post(COMPLETIONS, asked | {"stop": TEXT[18:20] + "x"})
        assert "".join(piece["choices"][0]["text"] for piece in events_of(raw)) == TEXT[:20]

    writer(check)


def test_people_and_oip_clients_get_the_same_text(writer):
    async def check(server):
        asked = {"task_type": "generation", "text": "你好", "parameters": {"max_tokens": 5}}
        _, _, body = await server.post("/predict", asked)
        assert body["result"] == {"text": TEXT[:5], "finish_reason": "length"}
        status, _, body = await server.post("/predict", asked | {"parameters": {"top_p": 0}})
        assert (status, body["field"]) == (400, "parameters.top_p")
        tensor = {"name": "text", "datatype": "BYTES", "shape": [2], "data": ["你好", "a"]}
        infer = {"inputs": [tensor], "parameters": {"max_tokens": 5, "stop": [TEXT[3]]}}
        _, _, body = await server.post("/v2/models/writer/infer", infer)
        assert body["outputs"][0]["data"] == [TEXT[: TEXT.index(TEXT[3])], written(weights(), "a", 5)]
        assert json.loads(body["parameters"]["finish"]) == ["stop", "length"]

    writer(check)


def test_an_unmodified_client_completes_chats_and_streams(writer):
    async def check(server):
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            whole = await client.completions.create(model="writer", prompt="你好", max_tokens=20, temperature=0)
            assert whole.choices[0].text == TEXT[:20]
            options = {"include_usage": True}
            pieces = [
                piece
                async for piece in await client.completions.create(
                    model="writer", prompt="你好", max_tokens=20, stream=True, stream_options=options
                )
            ]
            assert "".join(piece.choices[0].text for piece in pieces if piece.choices) == TEXT[:20]
            assert pieces[-1].usage.completion_tokens == 20
            drawn = [
                await client.chat.completions.create(
                    model="writer", messages=TURNS, temperature=1.3, top_p=0.9, seed=seed, max_completion_tokens=20
                )
                for seed in (5, 5, 6)
            ]
            one, same, other = (each.choices[0].message.content for each in drawn)
            assert one == same != other
            with pytest.raises(openai.BadRequestError) as caught:
                await client.completions.create(model="writer", prompt="你好", temperature=9)
            assert caught.value.param == "temperature"
            stop = written(weights(), CONVERSATION, 30)[12:14]
            async with client.chat.completions.stream(model="writer", messages=TURNS, stop=stop) as stream:
                final = await stream.get_final_completion()
            expected = written(weights(), CONVERSATION, 30)
            assert final.choices[0].message.content == expected[: expected.index(stop)]

    writer(check)
