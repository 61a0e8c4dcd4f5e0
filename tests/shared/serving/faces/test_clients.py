"""Unmodified clients of the field against a real server: `openai`, and `tritonclient` over HTTP."""

import asyncio

import numpy as np
import openai
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from tests.shared.serving.echo import playing
from tests.shared.serving.faces.server import everything
from tests.shared.serving.faces.test_openai import generator


def with_triton(folder, check):
    async def main():
        async with everything(folder) as server:

            def work():
                client = triton.InferenceServerClient(server.url.removeprefix("http://"))
                try:
                    check(client)
                finally:
                    client.close()

            await asyncio.to_thread(work)

    asyncio.run(main())


def test_tritonclient_asks_about_the_server_and_its_models(tmp_path):
    def check(client):
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("ner")
        assert client.is_model_ready("ner", "1.0.0")
        assert not client.is_model_ready("nope")
        assert client.get_server_metadata()["name"] == "tideline"
        assert client.get_model_metadata("adder")["inputs"][0]["name"] == "x"
        index = client.get_model_repository_index()
        assert {entry["name"] for entry in index} >= {"adder", "ner"}
        assert client.get_inference_statistics("ner")["model_stats"][0]["name"] == "ner"
        assert len(client.get_inference_statistics()["model_stats"]) == 6
        with pytest.raises(InferenceServerException, match="unknown model"):
            client.get_model_metadata("nope")

    with_triton(tmp_path, check)


@pytest.mark.parametrize("binary_in", [False, True])
@pytest.mark.parametrize("binary_out", [False, True])
def test_tritonclient_infers(tmp_path, binary_in, binary_out):
    def check(client):
        x = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
        tensor = triton.InferInput("x", list(x.shape), "FP32")
        tensor.set_data_from_numpy(x, binary_data=binary_in)
        wanted = triton.InferRequestedOutput("y", binary_data=binary_out)
        result = client.infer("adder", [tensor], outputs=[wanted], request_id="mine", priority=2, timeout=5_000_000)
        np.testing.assert_array_equal(result.as_numpy("y"), x * 2)
        assert result.get_response()["id"] == "mine"
        text = triton.InferInput("text", [2], "BYTES")
        text.set_data_from_numpy(np.array(["好", "坏".encode()], dtype=object), binary_data=binary_in)
        compressed = {"request_compression_algorithm": "gzip"} if binary_in else {}
        result = client.infer("sentiment-tiny", [text], model_version="1.0.0", **compressed)
        assert [label.decode() for label in result.as_numpy("label")] == ["正面", "负面"]
        assert result.as_numpy("scores").shape == (2, 2)
        bad = triton.InferInput("x", [1, 2], "FP32")
        bad.set_data_from_numpy(np.zeros((1, 2), np.float32), binary_data=binary_in)
        with pytest.raises(InferenceServerException, match="wrong shape"):
            client.infer("adder", [bad])

    with_triton(tmp_path, check)


def test_openai_embeds(tmp_path):
    async def main():
        async with (
            everything(tmp_path) as server,
            openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
        ):
            answer = await client.embeddings.create(model="emb", input=["好", "坏"])
            assert [len(item.embedding) for item in answer.data] == [4, 4]
            floats = await client.embeddings.create(model="emb", input="好", encoding_format="float")
            np.testing.assert_allclose(floats.data[0].embedding, answer.data[0].embedding, rtol=1e-6)
            assert {model.id async for model in client.models.list()} >= {"emb"}
            with pytest.raises(openai.NotFoundError) as caught:
                await client.embeddings.create(model="nope", input="好")
            assert caught.value.code == "not-found"
            with pytest.raises(openai.UnprocessableEntityError):
                await client.embeddings.create(model="emb", input="")

    asyncio.run(main())


def test_openai_completes_and_streams():
    async def check(server):
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            done = await client.completions.create(model="gen", prompt="x", max_tokens=3, temperature=0)
            assert (done.choices[0].text, done.choices[0].finish_reason) == ("你好.", "stop")
            pieces = await client.completions.create(model="gen", prompt="x", stream=True)
            assert "".join([piece.choices[0].text async for piece in pieces]) == "你好."
            turns = [{"role": "user", "content": "x"}]
            chat = await client.chat.completions.create(model="gen", messages=turns)
            assert chat.choices[0].message.content == "你好."
            pieces = await client.chat.completions.create(model="gen", messages=turns, stream=True)
            assert "".join([piece.choices[0].delta.content or "" async for piece in pieces]) == "你好."

    generator(playing("你", "好", "."))(check)
