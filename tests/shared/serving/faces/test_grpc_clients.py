"""An unmodified `tritonclient` over gRPC against a real server."""

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from tests.shared.serving.faces.grpc_served import with_triton


def test_tritonclient_asks_about_the_server_and_its_models(tmp_path):
    def check(client):
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("ner")
        assert client.is_model_ready("ner", "1.0.0")
        assert not client.is_model_ready("nope")
        assert not client.is_model_ready("ner", "2.0.0")
        told = client.get_server_metadata()
        assert told.name == "tideline"
        assert {"binary_tensor_data", "statistics"} <= set(told.extensions)
        told = client.get_model_metadata("adder")
        assert (told.name, told.versions, told.platform) == ("adder", ["1.0.0"], "onnxruntime_onnx")
        assert [(spec.name, spec.datatype, list(spec.shape)) for spec in told.inputs] == [("x", "FP32", [-1, 3])]
        assert client.get_model_metadata("ner", as_json=True)["outputs"][0]["datatype"] == "BYTES"
        config = client.get_model_config("adder", as_json=True)["config"]
        assert (config["name"], config["backend"], config["max_batch_size"]) == ("adder", "onnxruntime", 32)
        assert config["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": ["3"]}]
        assert config["parameters"]["task"] == {"string_value": "tensor"}
        index = {model.name: model.state for model in client.get_model_repository_index().models}
        assert index["adder"] == index["ner"] == "READY"
        with pytest.raises(InferenceServerException, match="unknown model") as caught:
            client.get_model_metadata("nope")
        assert caught.value.status() == "StatusCode.NOT_FOUND"

    with_triton(tmp_path, check)


def texts(*values) -> triton.InferInput:
    made = triton.InferInput("text", [len(values)], "BYTES")
    made.set_data_from_numpy(np.array(values, dtype=object))
    return made


def floats(values) -> triton.InferInput:
    made = triton.InferInput("x", list(values.shape), "FP32")
    made.set_data_from_numpy(values)
    return made


def test_tritonclient_infers(tmp_path):
    def check(client):
        x = np.array([[1, 2, 3], [4, 5, np.inf]], np.float32)
        asked = [triton.InferRequestedOutput("y")]
        result = client.infer(
            "adder", [floats(x)], outputs=asked, request_id="mine", priority=2, timeout=5_000_000, client_timeout=30
        )
        np.testing.assert_array_equal(result.as_numpy("y"), x * 2)
        answer = result.get_response()
        assert (answer.id, answer.model_name, answer.model_version) == ("mine", "adder", "1.0.0")
        assert answer.parameters["where"].string_param == "local"
        assert answer.parameters["compute_ms"].double_param > 0
        for packed in (None, "gzip", "deflate"):
            given = [texts("好", "坏".encode())]
            result = client.infer("sentiment-tiny", given, model_version="1.0.0", compression_algorithm=packed)
            assert [label.decode() for label in result.as_numpy("label")] == ["正面", "负面"]
            assert result.as_numpy("scores").shape == (2, 2)
        entities = client.infer("ner", [texts("王明去北京")]).as_numpy("entities")
        assert "王明" in entities[0].decode()
        assert client.infer("emb", [texts("好", "坏")]).as_numpy("embedding").shape == (2, 4)
        cut = client.infer("sentiment-tiny", [texts("好" * 40)], parameters={"truncate": True})
        assert cut.as_numpy("truncated").tolist() == [True]
        only = client.infer("sentiment-tiny", [texts("好")], outputs=[triton.InferRequestedOutput("score")])
        assert [output.name for output in only.get_response().outputs] == ["score"]
        given = triton.InferInput("s", [2], "BYTES")
        given.set_data_from_numpy(np.array(["好", ""], dtype=object))
        assert client.infer("echo", [given]).as_numpy("t").tolist() == ["好".encode(), b""]
        stats = client.get_inference_statistics("sentiment-tiny", "1.0.0").model_stats[0]
        assert (stats.name, stats.inference_stats.success.count) == ("sentiment-tiny", 5)
        assert stats.inference_stats.compute_infer.ns > 0
        assert sum(each.batch_size * each.compute_infer.count for each in stats.batch_stats) >= 8
        assert stats.last_inference > 1_700_000_000_000
        assert len(client.get_inference_statistics().model_stats) == 6

    with_triton(tmp_path, check)


REFUSALS = [
    ("nope", lambda: [texts("好")], {}, "NOT_FOUND", "unknown model"),
    ("ner", lambda: [texts("好")], {"model_version": "2.0.0"}, "NOT_FOUND", "1.0.0"),
    ("adder", lambda: [floats(np.zeros((1, 2), np.float32))], {}, "INVALID_ARGUMENT", "wrong shape"),
    ("adder", list, {}, "INVALID_ARGUMENT", "missing input"),
    ("ner", list, {}, "INVALID_ARGUMENT", "text"),
    ("ner", lambda: [texts()], {}, "INVALID_ARGUMENT", "inputs\\[0\\].shape"),
    ("sentiment-tiny", lambda: [texts("好" * 40)], {}, "INVALID_ARGUMENT", "16"),
    ("sentiment-tiny", lambda: [texts(b"\xff")], {}, "INVALID_ARGUMENT", "UTF-8"),
    ("ner", lambda: [texts("好")], {"headers": {"x-tideline-tenant": "nobody"}}, "UNAUTHENTICATED", "who is asking"),
    ("ner", lambda: [texts("好")], {"headers": {"x-tideline-tenant": "other"}}, "NOT_FOUND", "unknown model"),
    ("ner", lambda: [texts("好")], {"headers": {"x-tideline-deadline-ms": "soon"}}, "INVALID_ARGUMENT", "not a time"),
]


def test_tritonclient_understands_refusals(tmp_path):
    def check(client):
        for model, inputs, options, code, says in REFUSALS:
            with pytest.raises(InferenceServerException, match=says) as caught:
                client.infer(model, inputs(), **options)
            assert caught.value.status() == f"StatusCode.{code}", (model, options)
        unknown = [triton.InferRequestedOutput("nope")]
        with pytest.raises(InferenceServerException, match="unknown output"):
            client.infer("ner", [texts("好")], outputs=unknown)
        shared = texts("好")
        shared.set_shared_memory("region", 7)
        placed = triton.InferRequestedOutput("entities")
        placed.set_shared_memory("region", 7)
        for inputs, outputs in (([shared], None), ([texts("好")], [placed])):
            with pytest.raises(InferenceServerException, match="shared memory") as caught:
                client.infer("ner", inputs, outputs=outputs)
            assert caught.value.status() == "StatusCode.UNIMPLEMENTED"
        with pytest.raises(InferenceServerException) as caught:
            client.unload_model("ner")
        assert caught.value.status() == "StatusCode.UNIMPLEMENTED"
        assert client.is_server_live()

    with_triton(tmp_path, check)
