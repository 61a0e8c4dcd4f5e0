"""Section 3: inference over HTTP, as any client sees it: paths, statuses, bodies, headers."""

import base64
import struct
from typing import Any

import numpy as np
import pytest

from tests.contract.conftest import Door, Edge
from tests.edge_agent.test_agent import running

TEXT = "这家店的牛肉面汤头很鲜，分量也足，下次还会再来。"
OTHER = "等了一个小时，菜还是凉的。"
LONG = "长" * 500
INFER = "/v2/models/sentiment-zh/infer"
LIMIT = "128"


def tensor(*texts: str, **changes: object) -> dict[str, Any]:
    return {"name": "text", "datatype": "BYTES", "shape": [len(texts)], "data": list(texts)} | changes


def oip(*texts: str, **more: object) -> dict[str, Any]:
    return {"inputs": [tensor(*texts)], **more}


def outputs(answer: Any) -> dict[str, Any]:
    return {each["name"]: each for each in answer.json["outputs"]}


def test_open_inference_protocol_tells_of_server_and_models(edge: Edge) -> None:
    server = edge.get("/v2").json
    assert server["name"] == "tideline"
    assert {"binary_tensor_data", "schedule_policy", "model_repository", "statistics"} <= set(server["extensions"])
    for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/ner-zh/ready"):
        assert edge.get(path).status == 200, path
    for path in ("/v2/models/sentiment-zh", "/v2/models/sentiment-zh/versions/1.0.0"):
        model = edge.get(path).json
        assert {"name", "versions", "platform", "inputs", "outputs"} <= model.keys()
        assert model["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
        assert edge.get(f"{path}/ready").status == 200
    assert edge.get("/v2/models/double").json["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]
    index = edge.post("/v2/repository/index", {"ready": True}).json
    assert {each["name"] for each in index} == {"sentiment-zh", "ner-zh", "embed-zh", "tiny-lm", "double"}
    assert all(each.keys() == {"name", "version", "state", "reason"} and each["state"] == "READY" for each in index)


def test_statistics_count_requests_and_nothing_else(edge: Edge) -> None:
    def counted() -> dict[str, Any]:
        (found,) = edge.get("/v2/models/embed-zh/versions/1.0.0/stats").json["model_stats"]
        return found

    before = counted()
    edge.post("/v2/models/embed-zh/infer", oip(TEXT, OTHER))
    edge.post("/v2/models/embed-zh/infer", oip(LONG))
    after = counted()
    assert after["inference_count"] - before["inference_count"] == 2
    assert after["execution_count"] - before["execution_count"] in (1, 2)
    assert after["inference_stats"]["success"]["count"] - before["inference_stats"]["success"]["count"] == 1
    assert after["inference_stats"]["fail"]["count"] - before["inference_stats"]["fail"]["count"] == 1
    assert after["last_inference"] > 0
    # Warming replays golden sets, and nobody asked for that.
    assert counted()["inference_count"] == sum(
        b["batch_size"] * b["compute_infer"]["count"] for b in after["batch_stats"]
    )
    fresh = edge.get("/v2/models/double/stats").json["model_stats"][0]
    assert fresh["inference_count"] == fresh["inference_stats"]["success"]["count"]


def test_a_request_and_its_headers(edge: Edge) -> None:
    answer = edge.post(
        INFER,
        oip(TEXT, id="mine"),
        X_Request_Id="contract-1",
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    )
    assert answer.status == 200, answer.body
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["X-Request-Id"] == "contract-1"
    assert answer.headers["X-Tideline-Where"] == "local"
    assert answer.headers["X-Tideline-Why"]
    assert answer.headers["X-Tideline-Model"] == "sentiment-zh@1.0.0/cpu-int8"
    assert float(answer.headers["X-Tideline-Queue-Ms"]) >= 0
    assert float(answer.headers["X-Tideline-Compute-Ms"]) > 0
    assert "Server" not in answer.headers
    body = answer.json
    assert (body["id"], body["model_name"], body["model_version"]) == ("mine", "sentiment-zh", "1.0.0")
    found = outputs(answer)
    assert (found["label"]["datatype"], found["label"]["shape"], found["label"]["data"]) == ("BYTES", [1], ["正面"])
    assert (found["scores"]["datatype"], found["scores"]["shape"]) == ("FP32", [1, 2])
    why = edge.get("/v1/why/contract-1").json
    assert (why["request_id"], why["where"], why["outcome"]) == ("contract-1", "local", "ok")
    assert {"policy_revision", "generation", "deadline_ms", "reason", "predicted", "attempts"} <= why.keys()
    assert {"local_wait_ms", "local_compute_ms", "cloud_ms", "breaker"} <= why["predicted"].keys()
    made_up = edge.post(INFER, oip(TEXT), X_Request_Id="not an id!").headers["X-Request-Id"]
    assert made_up != edge.post(INFER, oip(TEXT)).headers["X-Request-Id"]
    assert edge.post(INFER, oip(TEXT), X_Tideline_Privacy="local-only", X_Tideline_Priority="1").status == 200


def test_plain_json_for_people(edge: Edge) -> None:
    answer = edge.post("/predict", {"task_type": "sentiment", "input_text": TEXT}, X_Request_Id="contract-2")
    body = answer.json
    assert {"request_id", "task", "model", "where", "result"} <= body.keys()
    assert (body["request_id"], body["task"], body["model"], body["where"]) == (
        "contract-2",
        "sentiment",
        "sentiment-zh",
        "local",
    )
    assert body["result"].keys() == {"label", "score", "scores"}
    assert body["result"]["scores"].keys() == {"正面", "负面"}
    by_model = edge.post("/predict", {"model": "sentiment-zh", "text": TEXT}).json
    assert by_model["result"]["label"] == body["result"]["label"] == "正面"

    text = "𠮷野先生张伟在北京大学工作"
    (found,) = edge.post("/batch_predict", {"task_type": "ner", "input_texts": [text]}).json["results"]
    assert found["entities"]
    for entity in found["entities"]:
        assert entity.keys() == {"type", "start", "end", "text", "score"}
        assert text[entity["start"] : entity["end"]] == entity["text"]

    vector = edge.post("/predict", {"task_type": "embedding", "text": TEXT}).json["result"]["embedding"]
    assert abs(float(np.linalg.norm(vector)) - 1) < 1e-3


def test_one_input_and_a_list_of_one_are_treated_alike(edge: Edge) -> None:
    for path, one, many in (("/predict", "input_text", "text"), ("/batch_predict", "input_texts", "texts")):
        answers = [
            edge.post(path, {"task_type": "sentiment", field: value}).json
            for field in (one, many)
            for value in (TEXT, [TEXT])
        ]
        results = [answer["result"] if path == "/predict" else answer["results"] for answer in answers]
        assert all(result == results[0] for result in results), path
    assert edge.post("/predict", {"task_type": "sentiment", "input_text": [TEXT, OTHER]}).status == 400
    single, listed = (edge.post("/v1/embeddings", {"model": "embed-zh", "input": i}).json for i in (TEXT, [TEXT]))
    assert single["data"] == listed["data"]
    scalar = edge.post(INFER, {"inputs": [tensor(TEXT, shape=[1, 1])]})
    assert outputs(scalar) == outputs(edge.post(INFER, oip(TEXT)))


def test_a_batch_answers_as_each_text_alone(edge: Edge) -> None:
    results = edge.post("/batch_predict", {"task_type": "sentiment", "input_texts": [TEXT, OTHER]}).json["results"]
    alone = [
        edge.post("/predict", {"task_type": "sentiment", "input_text": text}).json["result"] for text in (TEXT, OTHER)
    ]
    assert [result["label"] for result in results] == [result["label"] for result in alone] == ["正面", "负面"]
    assert [result["score"] for result in results] == pytest.approx([result["score"] for result in alone], abs=1e-3)


def test_too_long_is_refused_with_the_limit_or_cut_on_demand(edge: Edge) -> None:
    cut = {"truncate": True}
    asked = {
        "/predict": {"task_type": "sentiment", "input_text": LONG},
        "/batch_predict": {"task_type": "sentiment", "input_texts": [LONG]},
        INFER: oip(LONG),
        "/v1/embeddings": {"model": "embed-zh", "input": LONG},
    }
    for path, body in asked.items():
        refused = edge.post(path, body)
        assert (refused.status, LIMIT in refused.body.decode()) == (422, True), path
        assert edge.post(path, body | {"parameters": {"truncate": False}}).status == 422
    assert edge.post("/predict", asked["/predict"] | {"parameters": cut}).json["truncated"] is True
    (one,) = edge.post("/batch_predict", asked["/batch_predict"] | {"parameters": cut}).json["results"]
    assert one["truncated"] is True
    assert outputs(edge.post(INFER, asked[INFER] | {"parameters": cut}))["truncated"]["data"] == [True]
    (vector,) = edge.post("/v1/embeddings", asked["/v1/embeddings"] | {"parameters": cut}).json["data"]
    assert vector["truncated"] is True
    assert (
        "truncated" not in edge.post("/predict", {"task_type": "sentiment", "input_text": TEXT, "parameters": cut}).json
    )


def test_embeddings_as_numbers_and_as_base64(edge: Edge) -> None:
    plain, packed = (
        edge.post("/v1/embeddings", {"model": "embed-zh", "input": [TEXT, OTHER], "encoding_format": form}).json
        for form in ("float", "base64")
    )
    assert plain["object"] == "list"
    assert plain["model"] == "embed-zh"
    assert plain["usage"]["prompt_tokens"] == plain["usage"]["total_tokens"] > 0
    for i, (number, text) in enumerate(zip(plain["data"], packed["data"], strict=True)):
        assert (number["object"], number["index"]) == ("embedding", i)
        unpacked = np.frombuffer(base64.b64decode(text["embedding"]), dtype="<f4")
        assert np.array_equal(unpacked, np.asarray(number["embedding"], dtype=np.float32))


def test_binary_tensors_both_ways(edge: Edge) -> None:
    raw = np.asarray([[1.0, 2.0]], dtype="<f4").tobytes()
    head = (
        b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"parameters":{"binary_data_size":8}}],'
        b'"outputs":[{"name":"y","parameters":{"binary_data":true}}]}'
    )
    sent = {"Content_Type": "application/octet-stream", "Inference_Header_Content_Length": str(len(head))}
    answer = edge.post("/v2/models/double/infer", head + raw, **sent)
    assert answer.status == 200, answer.body
    length = int(answer.headers["Inference-Header-Content-Length"])
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert np.frombuffer(answer.body[length:], dtype="<f4").tolist() == [2.0, 4.0]

    encoded = TEXT.encode()
    blob = struct.pack("<I", len(encoded)) + encoded
    head = (
        b'{"inputs":[{"name":"text","datatype":"BYTES","shape":[1],"parameters":{"binary_data_size":%d}}],'
        b'"outputs":[{"name":"label"}]}' % len(blob)
    )
    sent["Inference_Header_Content_Length"] = str(len(head))
    answer = edge.post(INFER, head + blob, **sent)
    assert [each["data"] for each in answer.json["outputs"]] == [["正面"]]

    sent["Inference_Header_Content_Length"] = "0"
    answer = edge.post(INFER, encoded, **sent)
    assert answer.status == 200, "the whole body is the one input"

    for length in ("x", "99999", "-1"):
        sent["Inference_Header_Content_Length"] = length
        answer = edge.post(INFER, head + blob, **sent)
        assert (answer.status, answer.json.keys()) == (400, {"error"}), length


def test_no_input_is_logged_unless_somebody_asks(edge: Edge, tmp_path: Any) -> None:
    secret = "我的电话号码是一三八零零"
    for path, body in (
        ("/predict", {"task_type": "sentiment", "input_text": secret}),
        (INFER, oip(secret)),
        ("/predict", {"task_type": "sentiment", "input_text": secret * 100}),
        ("/v1/embeddings", {"model": "embed-zh", "input": [secret, 1]}),
        (INFER, {"inputs": [tensor(secret, shape=[3])]}),
    ):
        edge.post(path, body)
    assert secret[:4] not in edge.agent.said
    path = str(edge.agent.process.args[4])
    asked = {"EDGE_AGENT_LOG_INPUTS": "true", "EDGE_AGENT_LOG_LEVEL": "debug"}
    with running("serve", path, "--port", "0", folder=tmp_path, **asked) as agent:
        door = Door(agent.port)
        (model,) = {each["name"] for each in door.post("/v2/repository/index", {}).json}
        sent = {"model": model, "input_text": secret * 100, "parameters": {"truncate": True}}
        assert door.post("/predict", sent, X_Request_Id="told-1").status == 200
        (line,) = [line for line in agent.said.splitlines() if secret[:4] in line]
        assert '"request_id": "told-1"' in line
        assert len(line) < 600
        assert agent.end() == 0
