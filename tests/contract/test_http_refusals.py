"""Section 3: what is refused, with which status, naming what, in which envelope."""

from typing import Any

import pytest

from tests.cloud_core.waiting import wait_for
from tests.contract.conftest import Edge
from tests.contract.test_http_inference import INFER, LIMIT, LONG, TEXT, oip, tensor

BAD = [
    # What is asked, the status, and what the refusal names.
    ("POST", INFER, b"{", 400, "body"),
    ("POST", INFER, b"", 400, "body"),
    ("POST", INFER, b'{"inputs": [{"name":"text","shape":[1],"datatype":"BYTES","data":["\xff"]}]}', 400, "body"),
    ("POST", INFER, {"inputs": [tensor(TEXT, shape=[2])]}, 400, "inputs[0].data"),
    ("POST", INFER, {"inputs": [tensor(TEXT, shape=[-1])]}, 400, "inputs[0].shape"),
    ("POST", INFER, {"inputs": [tensor(TEXT, datatype="TEXT")]}, 400, "inputs[0].datatype"),
    ("POST", INFER, {"inputs": [tensor(TEXT), tensor(TEXT)]}, 400, "inputs[1].name"),
    ("POST", INFER, oip(TEXT, outputs=[{"name": "nope"}]), 400, "outputs[0].name"),
    ("POST", INFER, oip(TEXT, parameters={"timeout": "soon"}), 400, "parameters.timeout"),
    ("POST", INFER, oip(TEXT, parameters={"truncate": 1}), 400, "parameters.truncate"),
    ("POST", INFER, {"inputs": []}, 422, "inputs"),
    ("POST", INFER, {"inputs": [tensor(datatype="FP32", shape=[1], data=[1.0])]}, 422, "BYTES"),
    ("POST", INFER, {"inputs": [tensor(TEXT, name="words")]}, 422, "words"),
    ("POST", INFER, oip(""), 422, "text"),
    ("POST", INFER, oip(TEXT, LONG), 422, "texts[1]"),
    ("POST", "/v2/models/double/infer", {"inputs": [tensor(datatype="FP32", name="x", shape=[3], data=[1, 2, 3])]}, 422, "inputs.x.shape"),
    ("POST", "/v2/models/nope/infer", oip(TEXT), 404, "nope"),
    ("POST", "/v2/models/sentiment-zh/versions/7.0.0/infer", oip(TEXT), 404, "1.0.0"),
    ("GET", "/v2/models/nope", None, 404, "nope"),
    ("GET", "/v2/models/nope/stats", None, 404, "nope"),
    ("GET", "/v2/nowhere", None, 404, ""),
    ("GET", INFER, None, 405, ""),
    ("POST", "/v1/embeddings", {"input": TEXT}, 400, "model"),
    ("POST", "/v1/embeddings", {"model": "embed-zh", "input": [1, 2]}, 400, "input[0]"),
    ("POST", "/v1/embeddings", {"model": "embed-zh", "input": []}, 400, "input"),
    ("POST", "/v1/embeddings", {"model": "embed-zh", "input": TEXT, "encoding_format": "hex"}, 400, "encoding_format"),
    ("POST", "/v1/embeddings", {"model": "embed-zh", "input": TEXT, "dimensions": 3}, 400, "dimensions"),
    ("POST", "/v1/embeddings", {"model": "sentiment-zh", "input": TEXT}, 422, "model"),
    ("POST", "/v1/embeddings", {"model": "nope", "input": TEXT}, 404, "nope"),
    ("POST", "/v1/completions", {"model": "sentiment-zh", "prompt": TEXT}, 422, "model"),
    ("POST", "/v1/chat/completions", {"model": "embed-zh", "messages": [{"role": "user", "content": TEXT}]}, 422, "model"),
    ("GET", "/v1/models/nope", None, 404, "nope"),
    ("GET", "/v1/embeddings", None, 405, ""),
    ("POST", "/predict", b"[", 400, "body"),
    ("POST", "/predict", {"input_text": TEXT}, 400, "task_type"),
    ("POST", "/predict", {"task_type": "sentiment"}, 400, "input_text"),
    ("POST", "/predict", {"task_type": "sentiment", "input_text": 5}, 400, "input_text"),
    ("POST", "/predict", {"task_type": "divination", "input_text": TEXT}, 422, "task_type"),
    ("POST", "/predict", {"task_type": "sentiment", "input_text": ""}, 422, "text"),
    ("POST", "/predict", {"task_type": "sentiment", "input_text": LONG}, 422, LIMIT),
    ("POST", "/predict", {"model": "double", "input_text": TEXT}, 422, "/v2/models/double/infer"),
    ("POST", "/predict", {"task_type": "relation", "input_text": TEXT}, 404, "relation"),
    ("POST", "/predict", {"model": "nope", "input_text": TEXT}, 404, "nope"),
    ("POST", "/batch_predict", {"task_type": "sentiment", "input_texts": []}, 400, "input_texts"),
    ("POST", "/batch_predict", {"task_type": "sentiment", "input_texts": [TEXT] * 1025}, 400, "1024"),
    ("GET", "/predict", None, 405, ""),
    ("GET", "/nowhere", None, 404, ""),
    ("GET", "/v1/why/never", None, 404, "never"),
]  # fmt: skip


def check_envelope(path: str, answer: Any) -> None:
    """The shape of an error body by the family of its path."""
    document = answer.json
    if path.startswith("/v2"):
        assert answer.headers["Content-Type"] == "application/json"
        assert document.keys() == {"error"}
        assert isinstance(document["error"], str)
    elif path.startswith(("/v1/embeddings", "/v1/completions", "/v1/chat", "/v1/models")):
        assert answer.headers["Content-Type"] == "application/json"
        assert document.keys() == {"error"}
        assert document["error"].keys() == {"message", "type", "param", "code"}
    else:
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert {"type", "title", "status", "detail", "code", "request_id"} <= document.keys()
        assert document["status"] == answer.status


def test_every_refusal_has_its_status_names_the_field_and_wears_its_envelope(edge: Edge) -> None:
    for method, path, body, status, names in BAD:
        answer = edge.ask(method, path, body, X_Request_Id="bad-1")
        assert answer.status == status, (path, body, answer.body)
        assert names in answer.body.decode(), (path, body, answer.body)
        assert answer.headers["X-Request-Id"] == "bad-1"
        assert "Traceback" not in answer.body.decode()
        check_envelope(path, answer)
        if status == 405:
            assert answer.headers["Allow"] == "POST"


@pytest.mark.parametrize("path", [INFER, "/v1/embeddings", "/predict"])
def test_media_types_sizes_headers_and_deadlines(edge: Edge, path: str) -> None:
    body = {
        INFER: oip(TEXT),
        "/v1/embeddings": {"model": "embed-zh", "input": TEXT},
        "/predict": {"model": "ner-zh", "text": TEXT},
    }[path]
    refusals = (
        (415, b"text", {"Content_Type": "text/plain"}),
        (400, body, {"X_Tideline_Deadline_Ms": "soon"}),
        (400, body, {"X_Tideline_Deadline_Ms": "-1"}),
        (400, body, {"X_Tideline_Priority": "high"}),
        (400, body, {"X_Tideline_Privacy": "x" * 200}),
        (413, None, {"Content_Type": "application/json", "Content_Length": str(1 << 30)}),
        (504, body, {"X_Tideline_Deadline_Ms": "0"}),
    )
    for status, sent, headers in refusals:
        answer = edge.post(path, sent, **headers)
        assert answer.status == status, (headers, answer.body)
        check_envelope(path, answer)
    assert edge.post(path, body, Content_Type="").status == 200
    assert edge.post(path, body, Content_Type="application/json; charset=utf-8").status == 200


def test_what_cannot_be_done_in_time_is_shed_with_a_time_to_come_back(edge: Edge) -> None:
    many = ["好" * 120] * 1000
    asked = {
        "/batch_predict": {"task_type": "ner", "input_texts": many},
        "/v2/models/ner-zh/infer": oip(*many),
        "/v1/embeddings": {"model": "embed-zh", "input": many},
    }
    for path, body in asked.items():

        def shed(path: str = path, body: object = body) -> Any:
            # Where the machine is busy the deadline may pass while the body is read, which is another matter.
            answer = edge.post(path, body, X_Tideline_Deadline_Ms="100", X_Request_Id="shed-1")
            assert answer.status in (429, 504), answer.body
            return answer if answer.status == 429 else None

        answer = wait_for(shed, within=60)
        assert int(answer.headers["Retry-After"]) >= 1
        check_envelope(path, answer)
        assert edge.get("/v1/why/shed-1").json["outcome"] == "shed"
    assert "tideline_shed_total{" in edge.metrics()


def test_the_oip_timeout_is_a_deadline(edge: Edge) -> None:
    assert edge.post(INFER, oip(TEXT, parameters={"timeout": 1})).status == 504
    assert edge.post(INFER, oip(TEXT, parameters={"timeout": 60_000_000, "priority": 1})).status == 200
