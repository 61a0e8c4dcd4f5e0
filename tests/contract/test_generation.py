"""Section 3: generated text from an edge agent, as an unmodified `openai` client and plain HTTP see it."""

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from shared.bundle.manifest import MANIFEST_FILE, canonical
from tests.cloud_core.waiting import wait_for
from tests.contract.conftest import Edge
from tests.edge_agent.test_agent import running
from tests.shared.serving.decoder import CONTEXT, decoder_bundle, weights, written

TEXT = written(weights(), "你好", 64)


@pytest.fixture(scope="module")
def author(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    """An agent that serves a decoder and nothing else."""
    folder: Path = tmp_path_factory.mktemp("author")
    manifest = decoder_bundle(folder / "writer")
    (folder / "writer" / MANIFEST_FILE).write_bytes(canonical(manifest))
    with running("serve", str(folder / "writer"), "--port", "0", folder=folder) as agent:
        yield Edge(agent)


@pytest.fixture(scope="module")
def ai(author: Edge) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{author.url}/v1", api_key="any", max_retries=0) as client:
        yield client


def test_completions_and_chats(ai: openai.OpenAI) -> None:
    whole = ai.completions.create(model="writer", prompt="你好", max_tokens=20)
    assert (whole.choices[0].text, whole.choices[0].finish_reason) == (TEXT[:20], "length")
    assert whole.usage is not None
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens, whole.usage.total_tokens) == (2, 20, 22)
    pieces = list(ai.completions.create(model="writer", prompt="你好", max_tokens=20, stream=True))
    assert [piece.choices[0].text for piece in pieces] == list(TEXT[:20])
    chat = ai.chat.completions.create(model="writer", messages=[{"role": "user", "content": "你好"}], stop=["世"])
    expected = written(weights(), "user: 你好\nassistant:", 64)
    assert chat.choices[0].message.content == expected.partition("世")[0]


def test_the_shipped_decoder_streams_what_it_writes_at_once(edge: Edge) -> None:
    with openai.OpenAI(base_url=f"{edge.url}/v1", api_key="any", max_retries=0) as client:
        whole = client.completions.create(model="tiny-lm", prompt="今天天气", max_tokens=32)
        pieces = list(client.completions.create(model="tiny-lm", prompt="今天天气", max_tokens=32, stream=True))
    assert whole.choices[0].finish_reason in ("stop", "length")
    assert "".join(piece.choices[0].text for piece in pieces) == whole.choices[0].text != ""
    assert len(pieces) > 1


def test_the_story_of_a_stream_is_kept(author: Edge) -> None:
    asked = {"model": "writer", "prompt": "你好", "max_tokens": 3, "stream": True}
    answer = author.post("/v1/completions", asked, X_Request_Id="streamed-1")
    assert answer.headers["X-Tideline-Model"] == "writer@1.0.0/cpu"
    assert answer.headers["X-Tideline-Where"] == "local"
    assert answer.body.endswith(b"data: [DONE]\n\n")
    assert author.get("/v1/why/streamed-1").json["outcome"] == "ok"


def test_refusals_name_what_is_wrong(ai: openai.OpenAI, author: Edge) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match=str(CONTEXT - 1)) as long:
        ai.completions.create(model="writer", prompt="你" * 200)
    assert long.value.param == "prompt"
    with pytest.raises(openai.BadRequestError) as bad:
        ai.completions.create(model="writer", prompt="你", top_p=7, stream=True)
    assert (bad.value.param, bad.value.type) == ("top_p", "invalid_request_error")
    with pytest.raises(openai.BadRequestError) as many:
        ai.completions.create(model="writer", prompt="你", n=2)
    assert many.value.param == "n"
    told = author.post("/predict", {"task_type": "generation", "text": "你", "parameters": {"seed": "x"}})
    assert (told.status, told.json["field"]) == (400, "parameters.seed")


def test_a_client_that_goes_away_in_the_middle_of_a_stream_is_noticed(author: Edge) -> None:
    def failed() -> int:
        return int(author.get("/v2/models/writer/stats").json["model_stats"][0]["inference_stats"]["fail"]["count"])

    def tried() -> bool:
        # A client may be gone before, or only after, so short a text is written: one of some is noticed in between.
        with contextlib.closing(socket.create_connection(("127.0.0.1", author.port), timeout=60)) as raw:
            body = b'{"model": "writer", "prompt": "\xe4\xbd\xa0", "max_tokens": 90, "stream": true}'
            head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            raw.sendall(head + body)
            assert raw.recv(64).startswith(b"HTTP/1.1 200")
        return failed() > before

    before = failed()
    assert wait_for(tried, within=60)
    assert author.post("/predict", {"model": "writer", "text": "你好"}).json["result"]["text"] == TEXT
