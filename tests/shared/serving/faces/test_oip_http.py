import asyncio
import gzip
import io
import json

import numpy as np
import pytest

from shared.serving.answer import Request
from shared.serving.oip.http import decode_response, encode_request
from tests.shared.serving.bundles import TENANT
from tests.shared.serving.faces.server import everything

LENGTH = "Inference-Header-Content-Length"


@pytest.fixture
def with_server(tmp_path):
    def run(check, **options):
        async def main():
            async with everything(tmp_path, **options) as server:
                await check(server)

        asyncio.run(main())

    return run


def text(*values):
    return {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [len(values)], "data": list(values)}]}


def test_texts_and_tensors_as_json(with_server):
    async def check(server):
        status, headers, body = await server.post(
            "/v2/models/sentiment-tiny/versions/1.0.0/infer", text("好", "坏") | {"id": "mine"}
        )
        assert status == 200
        assert (body["id"], body["model_name"], body["model_version"]) == ("mine", "sentiment-tiny", "1.0.0")
        outputs = {output["name"]: output for output in body["outputs"]}
        assert outputs["label"]["data"] == ["正面", "负面"]
        assert outputs["scores"]["shape"] == [2, 2]
        assert json.loads(body["parameters"]["labels"]) == ["负面", "正面"]
        assert headers["X-Tideline-Model"].startswith("sentiment-tiny@1.0.0")
        asked = {
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}],
            "outputs": [{"name": "y"}],
        }
        _, _, body = await server.post("/v2/models/adder/infer", asked)
        assert body["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [1, 3], "data": [2, 4, 6]}]
        _, _, body = await server.post(
            "/v2/models/echo/infer", {"inputs": [{"name": "s", "datatype": "BYTES", "shape": [2], "data": ["a", "好"]}]}
        )
        assert body["outputs"][0]["data"] == ["a", "好"]

    with_server(check)


def test_binary_tensors_go_both_ways_and_may_be_compressed(with_server):
    async def check(server):
        x = np.arange(6, dtype=np.float32).reshape(2, 3)
        sent = encode_request(Request(id="q", tenant=TENANT, model="adder", tensors={"x": x}))
        for squeeze in (False, True):
            data = gzip.compress(sent.data) if squeeze else sent.data
            headers = sent.headers | ({"Content-Encoding": "gzip"} if squeeze else {})
            async with server.session.post(
                f"{server.url}/v2/models/adder/infer", data=data, headers=headers
            ) as response:
                assert response.status == 200
                back = decode_response(await response.read(), int(response.headers[LENGTH]), id="q")
            np.testing.assert_array_equal(back.results[0].outputs["y"], x * 2)
            assert (back.version, back.variant, back.where) == ("1.0.0", "cpu", "local")
        body = json.dumps(text("a")["inputs"][0] | {"data": None, "parameters": {"binary_data_size": 5}}).encode()
        body = b'{"inputs":[' + body + b"]}"
        status, _, document = await server.post(
            "/v2/models/ner/infer", data=body + b"\x01\0\0\0a", headers={LENGTH: str(len(body))}
        )
        assert status == 200, document

    with_server(check)


def test_every_error_has_the_protocols_body(with_server):
    async def check(server):
        cases = [
            ("/v2/models/nope/infer", text("好"), 404, "nope"),
            ("/v2/models/ner/versions/2.0.0/infer", text("好"), 404, "1.0.0"),
            ("/v2/models/ner/infer", {"inputs": []}, 422, "text"),
            ("/v2/models/ner/infer", text(""), 422, "empty"),
            ("/v2/models/ner/infer", text("好" * 2000), 422, "64 windows of 16 tokens"),
            ("/v2/models/ner/infer", text(), 400, "inputs[0].shape"),
            ("/v2/models/adder/infer", {"inputs": []}, 422, "missing input"),
            ("/v2/nope", {}, 404, "path"),
        ]
        for path, document, expected, part in cases:
            status, _, body = await server.post(path, document)
            assert status == expected, body
            assert set(body) == {"error"}
            assert part in body["error"]
        status, _, body = await server.post("/v2/models/ner/infer", data=b"{]")
        assert (status, set(body)) == (400, {"error"})
        status, _, body = await server.post("/v2/models/ner/infer", data=b"x", headers={"Content-Type": "text/csv"})
        assert (status, set(body)) == (415, {"error"})
        status, _, body = await server.post("/v2/models/ner/infer", data=b"x" * 70_000)
        assert (status, set(body)) == (413, {"error"})
        junk = {"Content-Encoding": "gzip"}
        status, _, body = await server.post("/v2/models/ner/infer", data=b"junk", headers=junk)
        assert (status, set(body)) == (400, {"error"})
        status, _, body = await server.post("/v2/models/ner/infer", text("好"), headers={LENGTH: "many"})
        assert (status, set(body)) == (400, {"error"})
        status, _, body = await server.get("/v2/models/ner/infer")
        assert (status, set(body)) == (405, {"error"})

    with_server(check)


def test_what_it_tells_of_itself_and_its_models(with_server):
    async def check(server):
        _, _, body = await server.get("/v2")
        assert body["name"] == "tideline"
        assert "binary_tensor_data" in body["extensions"]
        assert (await server.get("/v2/health/live"))[2] == {"live": True}
        status, _, body = await server.get("/v2/health/ready")
        assert (status, body["ready"]) == (200, True)
        _, _, body = await server.get("/v2/models/ner")
        assert (body["name"], body["versions"]) == ("ner", ["1.0.0"])
        assert body["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
        _, _, body = await server.get("/v2/models/adder/versions/1.0.0")
        assert body["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [-1, 3]}]
        status, _, body = await server.get("/v2/models/ner/ready")
        assert (status, body["name"], body["ready"]) == (200, "ner", True)
        assert (await server.get("/v2/models/nope/ready"))[0] == 404
        for _ in range(3):
            await server.post("/v2/models/ner/infer", text("好", "坏"))
        _, _, body = await server.get("/v2/models/ner/stats")
        (stats,) = body["model_stats"]
        assert stats["inference_stats"]["success"]["count"] == 3
        assert stats["inference_stats"]["compute_infer"]["ns"] > 0
        assert stats["inference_count"] >= 6
        assert sum(entry["batch_size"] * entry["compute_infer"]["count"] for entry in stats["batch_stats"]) >= 6
        _, _, body = await server.get("/v2/models/stats")
        assert len(body["model_stats"]) == 6
        for sent in ({}, {"json": {"ready": True}}):
            _, _, body = await server.post("/v2/repository/index", **sent)
            assert {(entry["name"], entry["state"]) for entry in body} >= {("ner", "READY"), ("adder", "READY")}

    with_server(check)


def test_a_large_body_is_decoded_all_the_same(with_server):
    async def check(server):
        x = np.arange(300_000, dtype=np.float32).reshape(-1, 3)
        tensor = {"name": "x", "datatype": "FP32", "shape": list(x.shape), "data": x.ravel().tolist()}
        data = io.BytesIO(json.dumps({"inputs": [tensor]}).encode())
        status, _, body = await server.post("/v2/models/adder/infer", data=data)
        assert status == 200
        assert body["outputs"][0]["data"] == (x * 2).ravel().tolist()

    with_server(check, max_body=1 << 24)


def test_configuration_shared_memory_and_numbers_that_are_none(with_server):
    async def check(server):
        _, _, body = await server.get("/v2/models/adder/config")
        # Rows of several requests are added together: what is told is one row.
        assert body["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [3]}]
        assert (body["max_batch_size"], body["parameters"]["task"]) == (32, {"string_value": "tensor"})
        _, _, body = await server.get("/v2/models/ner/config")
        assert (body["max_batch_size"], body["input"][0]["dims"]) == (0, [-1])
        assert "model_configuration" in (await server.get("/v2"))[2]["extensions"]
        asked = text("好")
        asked["inputs"][0]["parameters"] = {"shared_memory_region": "r", "shared_memory_byte_size": 7}
        status, _, body = await server.post("/v2/models/ner/infer", asked)
        assert (status, "shared memory" in body["error"]) == (501, True)
        placed = text("好") | {"outputs": [{"name": "entities", "parameters": {"shared_memory_region": "r"}}]}
        status, _, body = await server.post("/v2/models/ner/infer", placed)
        assert (status, "outputs[0].parameters.shared_memory_region" in body["error"]) == (501, True)
        for timeout in ("²", "9" * 5000):
            status, _, body = await server.post(
                "/v2/models/ner/infer", text("好") | {"parameters": {"timeout": timeout}}
            )
            assert (status, "parameters.timeout" in body["error"]) == (400, True)

    with_server(check)
