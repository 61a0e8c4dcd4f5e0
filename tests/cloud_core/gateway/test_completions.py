"""Generated text through the gateway: whole, piece by piece, with usage and refusals, and what a client that leaves costs."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import openai
import pytest

from cloud_core.gateway.completions import completion_body
from cloud_core.gateway.course import cost_of
from shared.bundle.manifest import TaskKind
from shared.protocol.errors import Refused
from shared.serving.answer import Request
from tests.cloud_core.gateway.cloud import Gateway, InProcessReplica, cloud
from tests.cloud_core.gateway.test_gateway import ready
from tests.cloud_core.waiting import eventually
from tests.shared.serving.decoder import CONTEXT, decoder_bundle, weights, written

TEXT = written(weights(), "你好", 64)
Check = Callable[[Gateway, openai.AsyncOpenAI, InProcessReplica], Awaitable[None]]


def with_writer(url: str, folder: Path, check: Check) -> None:
    async def main() -> None:
        async with cloud(url, folder, "replica-0") as (registry, gateway, (replica,)):
            await registry.publish(decoder_bundle(folder / "w"), folder / "w")
            await ready(gateway)
            assert gateway.token is not None
            async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.token, max_retries=0) as client:
                await check(gateway, client, replica)

    asyncio.run(main())


def test_an_unmodified_client_is_answered_whole_and_in_pieces(sqlite_url: str, tmp_path: Path) -> None:
    async def check(gateway: Gateway, client: openai.AsyncOpenAI, replica: InProcessReplica) -> None:
        whole = await client.completions.create(model="writer", prompt=["你好", "a"], max_tokens=20)
        assert [choice.text for choice in whole.choices] == [TEXT[:20], written(weights(), "a", 20)]
        assert whole.usage is not None
        assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (3, 40)
        stream = await client.completions.create(
            model="writer",
            prompt="你好",
            max_tokens=20,
            stop=[TEXT[15:17]],
            stream=True,
            stream_options={"include_usage": True},
        )
        pieces = [piece async for piece in stream]
        expected = TEXT[: TEXT[:20].index(TEXT[15:17])]
        assert "".join(piece.choices[0].text for piece in pieces if piece.choices) == expected
        assert len(pieces) > len(expected) / 2
        assert pieces[-2].choices[0].finish_reason == "stop"
        assert pieces[-1].usage is not None
        assert pieces[-1].usage.prompt_tokens == 2
        assert len(expected) < pieces[-1].usage.completion_tokens <= 20
        chat = await client.chat.completions.create(
            model="writer", messages=[{"role": "user", "content": "你好"}], max_tokens=6
        )
        assert chat.choices[0].message.content == written(weights(), "user: 你好\nassistant:", 6)
        drawn = []
        for streamed in (False, True):
            options = {"model": "writer", "prompt": "你好", "temperature": 1.2, "top_p": 0.9, "seed": 7}
            answer = await client.completions.create(**options, stream=streamed)
            drawn.append(
                "".join([piece.choices[0].text async for piece in answer]) if streamed else answer.choices[0].text
            )
        assert drawn[0] == drawn[1] != TEXT

    with_writer(sqlite_url, tmp_path, check)


def test_refusals_and_cuts_pass_through(sqlite_url: str, tmp_path: Path) -> None:
    async def check(gateway: Gateway, client: openai.AsyncOpenAI, replica: InProcessReplica) -> None:
        for streamed in (False, True):
            with pytest.raises(openai.BadRequestError) as bad:
                await client.completions.create(model="writer", prompt="你好", temperature=9, stream=streamed)
            assert bad.value.param == "temperature"
            with pytest.raises(openai.UnprocessableEntityError, match=str(CONTEXT - 1)):
                await client.completions.create(model="writer", prompt="你" * 200, stream=streamed)
        cut = {"model": "writer", "prompt": "你" * 200, "max_tokens": 4, "parameters": {"truncate": True}}
        status, answer = await gateway("POST", "/v1/completions", cut)
        assert (status, answer["choices"][0]["truncated"]) == (200, True)
        _, raw = await gateway("POST", "/v1/completions", cut | {"stream": True})
        assert isinstance(raw, str)
        assert raw.count('"truncated":true') == 1
        assert raw.endswith("data: [DONE]\n\n")
        _, told = await gateway("POST", "/predict", {"task_type": "generation", "text": "你好"})
        assert told["result"] == {"text": TEXT, "finish_reason": "length"}

    with_writer(sqlite_url, tmp_path, check)


def test_a_client_that_leaves_costs_its_replica_nothing_more(sqlite_url: str, tmp_path: Path) -> None:
    async def check(gateway: Gateway, client: openai.AsyncOpenAI, replica: InProcessReplica) -> None:
        stream = await client.completions.create(
            model="writer", prompt="你", max_tokens=CONTEXT - 1, stream=True, extra_headers={"X-Request-Id": "left"}
        )
        await anext(aiter(stream))
        await stream.close()

        async def given_back() -> bool:
            value = gateway.metrics.get_sample_value("tideline_replica_outstanding", {"replica": "replica-0"})
            load = replica.engine.load_of("default", "writer", "1.0.0")
            return value == 0.0 and load is not None and load.running == 0

        await eventually(given_back)

    with_writer(sqlite_url, tmp_path, check)


def test_what_may_be_written_is_charged() -> None:
    def asked(**parameters: object) -> Request:
        return Request(id="r", tenant="t", model="m", texts=("你好",), parameters=parameters)

    assert cost_of(asked(max_tokens=10), TaskKind.TEXT_GENERATION) == 14
    assert cost_of(asked(), TaskKind.TEXT_GENERATION) == 68
    assert cost_of(asked(max_tokens="many"), TaskKind.TEXT_GENERATION) == 68
    assert cost_of(asked(max_tokens=10), TaskKind.TEXT_CLASSIFICATION) == 4


def test_only_what_openai_knows_stands_at_the_top_of_a_forwarded_body() -> None:
    parameters = {"temperature": 0.5, "stop": ["。"], "truncate": True, "prompt": "another", "stream": False}
    request = Request(id="r", tenant="t", model="m", version="1.0.0", texts=("你好",), parameters=parameters)
    assert msgspec.json.decode(completion_body(request)) == {
        "model": "m@1.0.0",
        "prompt": "你好",
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.5,
        "stop": ["。"],
        "parameters": {"truncate": True, "prompt": "another", "stream": False},
    }
    with pytest.raises(Refused):
        completion_body(msgspec.structs.replace(request, texts=("a", "b")))
