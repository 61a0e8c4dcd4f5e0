"""What the protocol's extensions promise, over TCP and over a Unix socket; and what is not offered, refused in words."""

import asyncio
import base64

import httpx2
import msgspec
import numpy as np
import openai
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from shared.bundle.manifest import TaskKind
from shared.serving.answer import Request
from shared.serving.oip.http import decode_response, encode_request
from shared.serving.oip.models import EXTENSIONS
from shared.serving.oip.tensors import HEADER_LENGTH
from tests.shared.serving.bundles import TENANT, bundle, engine
from tests.shared.serving.faces.server import everything, serving
from tests.shared.serving.faces.test_clients import with_triton

X = {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1.0, 2.0, 3.0]}


@pytest.fixture(params=["tcp", "uds"])
def with_server(request, tmp_path):
    def run(check):
        async def main():
            uds = tmp_path / "agent.sock" if request.param == "uds" else None
            async with everything(tmp_path, uds=uds) as server:
                server.uds = uds
                await check(server)

        asyncio.run(main())

    return run


def test_every_extension_that_is_named_is_there(with_server):
    async def check(server):
        _, _, told = await server.get("/v2")
        assert set(told["extensions"]) == set(EXTENSIONS)
        # binary_tensor_data
        x = np.arange(6, dtype=np.float32).reshape(2, 3)
        sent = encode_request(Request(id="q", tenant=TENANT, model="adder", tensors={"x": x}))
        async with server.session.post(
            f"{server.url}/v2/models/adder/infer", data=sent.data, headers=sent.headers
        ) as response:
            back = decode_response(await response.read(), int(response.headers[HEADER_LENGTH]), id="q")
        np.testing.assert_array_equal(back.results[0].outputs["y"], x * 2)
        # schedule_policy: what cannot be done in time is not begun.
        for parameters, status in (
            ({"priority": 1, "timeout": 30_000_000}, 200),
            ({"priority": 0, "timeout": 0}, 200),
            ({"timeout": 1}, (429, 504)),
        ):
            found, _, body = await server.post("/v2/models/adder/infer", {"inputs": [X], "parameters": parameters})
            assert found in np.atleast_1d(status), body
        # model_configuration
        _, _, body = await server.get("/v2/models/adder/versions/1.0.0/config")
        assert body["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [3]}]
        # model_repository, to be read
        _, _, body = await server.post("/v2/repository/index", {"ready": True})
        assert {"name": "adder", "version": "1.0.0", "state": "READY", "reason": ""} in body
        for action in ("load", "unload"):
            status, _, body = await server.post(f"/v2/repository/models/adder/{action}", {"parameters": {}})
            assert (status, set(body), "read-only" in body["error"]) == (405, {"error"}, True)
        # statistics
        _, _, body = await server.get("/v2/models/adder/versions/1.0.0/stats")
        (stats,) = body["model_stats"]
        assert (stats["name"], stats["version"], stats["inference_stats"]["success"]["count"]) == ("adder", "1.0.0", 3)
        assert set(stats["inference_stats"]) >= {
            "success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss",
        }  # fmt: skip

    with_server(check)


def test_plain_json_and_openai_are_on_both_doors(with_server):
    async def check(server):
        status, _, body = await server.post("/predict", {"task_type": "sentiment", "text": "好"})
        assert (status, body["result"]["label"]) == (200, "正面")
        status, _, body = await server.post("/batch_predict", {"model": "ner", "texts": ["王明去北京", "去"]})
        assert (status, [len(each["entities"]) for each in body["results"]]) == (200, [2, 0])
        transport = httpx2.AsyncHTTPTransport(uds=str(server.uds)) if server.uds is not None else None
        async with (
            httpx2.AsyncClient(transport=transport) as http,
            openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, http_client=http) as client,
        ):
            floats = await client.embeddings.create(model="emb", input="好", encoding_format="float")
            packed = await client.embeddings.create(model="emb", input=["好"], encoding_format="base64", dimensions=4)
            raw = base64.b64decode(packed.data[0].embedding)
            np.testing.assert_allclose(np.frombuffer(raw, "<f4"), floats.data[0].embedding, rtol=1e-6)
            assert floats.usage.prompt_tokens == packed.usage.prompt_tokens == 3
            for asked, param in (
                ({"input": [1, 2, 3]}, "input[0]"),
                ({"input": [[1, 2], [3]]}, "input[0]"),
                ({"input": []}, "input"),
                ({"input": ["好"] * 1025}, "input"),
                ({"input": "好", "dimensions": 2}, "dimensions"),
            ):
                with pytest.raises(openai.BadRequestError) as caught:
                    await client.embeddings.create(model="emb", **asked)
                assert caught.value.param == param
            assert {model.id async for model in client.models.list()} >= {"emb"}

    with_server(check)


def test_errors_are_alike_on_both_doors(with_server):
    async def check(server):
        for path, document, expected in (
            ("/v2/models/nope/infer", {"inputs": [X]}, 404),
            ("/v2/models/adder/infer", {"inputs": [X | {"shape": [2, 3]}]}, 400),
            ("/v2/models/adder/infer", {"inputs": [X | {"datatype": "FP64"}]}, 422),
        ):
            status, _, body = await server.post(path, document)
            assert (status, set(body)) == (expected, {"error"})
        status, _, body = await server.post("/v2/models/adder/infer", data=bytes(100_000))
        assert (status, set(body)) == (413, {"error"})

    with_server(check)


def test_tritonclient_is_told_what_is_not_offered(tmp_path):
    def check(client):
        x = triton.InferInput("x", [1, 3], "FP32")
        x.set_data_from_numpy(np.ones((1, 3), np.float32))
        with pytest.raises(InferenceServerException, match="classification is not offered"):
            client.infer("adder", [x], outputs=[triton.InferRequestedOutput("y", class_count=2)])
        with pytest.raises(InferenceServerException, match="sequences are not offered"):
            client.infer("adder", [x], sequence_id=7, sequence_start=True)
        with pytest.raises(InferenceServerException, match="unknown output"):
            client.infer("adder", [x], outputs=[triton.InferRequestedOutput("z")])
        for act in (client.load_model, client.unload_model):
            with pytest.raises(InferenceServerException, match="read-only"):
                act("adder")
        with pytest.raises(InferenceServerException, match="no such path"):
            client.get_system_shared_memory_status()
        config = client.get_model_config("adder")
        assert (config["name"], config["parameters"]["batch_invariant"]) == ("adder", {"string_value": "true"})
        (entry,) = [each for each in client.get_model_repository_index() if each["name"] == "adder"]
        assert entry["state"] == "READY"

    with_triton(tmp_path, check)


def test_a_variant_whose_answers_depend_on_their_batch_says_so(tmp_path):
    async def main():
        async with engine() as made:
            manifest = bundle(tmp_path, "emb", TaskKind.TEXT_EMBEDDING)
            (variant,) = manifest.variants
            shaky = msgspec.structs.replace(variant, name="shaky", batch_invariant=False)
            manifest = msgspec.structs.replace(manifest, variants=(variant, shaky))
            later = msgspec.structs.replace(manifest, version="2.0.0")
            await made.load(TENANT, manifest, "d" * 64, tmp_path, "cpu")
            await made.load(TENANT, later, "e" * 64, tmp_path, "shaky")
            async with serving(made) as server:
                for version, name, invariant in (("1.0.0", "cpu", True), ("2.0.0", "shaky", False)):
                    path = f"/v2/models/emb/versions/{version}"
                    told = (await server.get(path))[2]["parameters"]
                    assert (told["variant"], told["batch_invariant"]) == (name, invariant)
                    told = (await server.get(f"{path}/config"))[2]["parameters"]
                    assert told["batch_invariant"] == {"string_value": str(invariant).lower()}

    asyncio.run(main())
