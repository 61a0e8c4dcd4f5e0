"""Section 3: the field's own clients, unmodified."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import openai
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from tests.cloud_core.waiting import wait_for
from tests.contract.conftest import Edge
from tests.contract.test_http_inference import LONG, OTHER, TEXT


@pytest.fixture
def ai(edge: Edge) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{edge.url}/v1", api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture
def server(edge: Edge) -> Iterator[Any]:
    client = triton.InferenceServerClient(f"127.0.0.1:{edge.port}", network_timeout=60, connection_timeout=60)
    yield client
    client.close()


def texts(*values: str, binary: bool) -> Any:
    made = triton.InferInput("text", [len(values)], "BYTES")
    made.set_data_from_numpy(np.array([value.encode() for value in values], dtype=np.object_), binary_data=binary)
    return made


def test_openai_embeds(ai: openai.OpenAI) -> None:
    packed = ai.embeddings.create(model="embed-zh", input=TEXT)
    plain = ai.embeddings.create(model="embed-zh", input=[TEXT, OTHER], encoding_format="float")
    assert len(plain.data) == 2
    assert packed.data[0].embedding == pytest.approx(plain.data[0].embedding, abs=2e-2)
    assert plain.usage.prompt_tokens > 0
    cut = ai.embeddings.create(model="embed-zh", input=LONG, extra_body={"parameters": {"truncate": True}})
    assert len(cut.data[0].embedding) == len(plain.data[0].embedding)


def test_openai_lists_models(ai: openai.OpenAI) -> None:
    assert {model.id for model in ai.models.list()} >= {"sentiment-zh", "ner-zh", "embed-zh"}
    assert ai.models.retrieve("embed-zh").owned_by == "tideline"


def test_openai_understands_refusals(ai: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        ai.models.retrieve("nope")
    assert (missing.value.code, missing.value.param) == ("not-found", "model")
    with pytest.raises(openai.UnprocessableEntityError, match="128"):
        ai.embeddings.create(model="embed-zh", input=LONG)
    with pytest.raises(openai.BadRequestError) as bad:
        ai.embeddings.create(model="embed-zh", input=[1, 2, 3])
    assert bad.value.type == "invalid_request_error"
    with pytest.raises(openai.UnprocessableEntityError):
        ai.chat.completions.create(model="embed-zh", messages=[{"role": "user", "content": TEXT}])
    with pytest.raises(openai.UnprocessableEntityError):
        ai.completions.create(model="embed-zh", prompt=TEXT, stream=True)

    def shed() -> openai.RateLimitError | None:
        try:
            ai.embeddings.create(
                model="embed-zh", input=["好" * 120] * 1000, extra_headers={"X-Tideline-Deadline-Ms": "100"}
            )
        except openai.RateLimitError as error:
            return error
        except openai.InternalServerError as error:
            # A busy machine may be late before it can see that it will be.
            if error.status_code != 504:
                raise
        return None

    refused = wait_for(shed, within=60)
    assert refused is not None
    assert int(refused.response.headers["Retry-After"]) >= 1


def test_triton_tells_of_server_and_models(server: Any) -> None:
    assert server.is_server_live()
    assert server.is_server_ready()
    assert server.is_model_ready("sentiment-zh")
    assert server.is_model_ready("sentiment-zh", "1.0.0")
    assert not server.is_model_ready("nope")
    assert server.get_server_metadata()["name"] == "tideline"
    assert server.get_model_metadata("double")["inputs"][0]["datatype"] == "FP32"
    index = {each["name"]: each["state"] for each in server.get_model_repository_index()}
    assert index["ner-zh"] == "READY"
    assert {each["name"] for each in server.get_inference_statistics()["model_stats"]} == index.keys()
    (stats,) = server.get_inference_statistics("ner-zh", "1.0.0")["model_stats"]
    assert stats["inference_stats"].keys() >= {"success", "fail", "queue", "compute_infer"}


@pytest.mark.parametrize("binary", [False, True])
def test_triton_infers_texts(server: Any, binary: bool) -> None:
    wanted = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("label", "scores")]
    result = server.infer(
        "sentiment-zh",
        [texts(TEXT, OTHER, binary=binary)],
        outputs=wanted,
        request_id="t-1",
        priority=1,
        timeout=60_000_000,
    )
    labels = [value.decode() if isinstance(value, bytes) else value for value in result.as_numpy("label")]
    assert labels == ["正面", "负面"]
    assert result.as_numpy("scores").shape == (2, 2)
    assert result.get_response()["id"] == "t-1"
    every = server.infer("ner-zh", [texts(TEXT, binary=binary)], model_version="1.0.0")
    assert every.as_numpy("entities").shape == (1,)
    packed = server.infer("sentiment-zh", [texts(TEXT, binary=binary)], request_compression_algorithm="gzip")
    assert packed.as_numpy("score").dtype == np.float32


@pytest.mark.parametrize("binary", [False, True])
def test_triton_infers_tensors(server: Any, binary: bool) -> None:
    values = np.array([[1.0, 2.0], [3.0, 4.0]], dtype=np.float32)
    given = triton.InferInput("x", [2, 2], "FP32")
    given.set_data_from_numpy(values, binary_data=binary)
    result = server.infer("double", [given], outputs=[triton.InferRequestedOutput("y", binary_data=binary)])
    assert np.array_equal(result.as_numpy("y"), values * 2)


def test_triton_understands_refusals(server: Any) -> None:
    for call, says in (
        (lambda: server.get_model_metadata("nope"), "unknown model"),
        (lambda: server.infer("nope", [texts(TEXT, binary=True)]), "unknown model"),
        (lambda: server.infer("sentiment-zh", [texts(LONG, binary=True)]), "128"),
        (lambda: server.infer("sentiment-zh", [texts(TEXT, binary=True)], timeout=1), "deadline"),
    ):
        with pytest.raises(InferenceServerException, match=says):
            call()
