import asyncio

import pytest

from tests.shared.serving.faces.server import everything


@pytest.fixture
def with_server(tmp_path):
    def run(check, **options):
        async def main():
            async with everything(tmp_path, **options) as server:
                await check(server)

        asyncio.run(main())

    return run


def test_every_task_by_its_plain_name(with_server):
    async def check(server):
        status, headers, body = await server.post("/predict", {"task_type": "sentiment", "input_text": "好"})
        assert status == 200
        assert body["model"] == "sentiment-tiny"
        assert (body["task"], body["where"]) == ("sentiment", "local")
        assert body["result"]["label"] == "正面"
        assert set(body["result"]["scores"]) == {"正面", "负面"}
        assert body["request_id"] == headers["X-Request-Id"]
        assert headers["X-Tideline-Where"] == "local"
        assert headers["X-Tideline-Why"]
        assert headers["X-Tideline-Model"] == "sentiment-tiny@1.0.0/cpu"
        assert float(headers["X-Tideline-Queue-Ms"]) >= 0
        assert float(headers["X-Tideline-Compute-Ms"]) > 0
        assert "Server" not in headers
        _, _, body = await server.post("/predict", {"task_type": "classification", "text": "坏"})
        assert body["model"] == "a-topic"
        _, _, body = await server.post("/predict", {"task_type": "ner", "text": "😀王明😀去北京"})
        assert [
            (entity["type"], entity["start"], entity["end"], entity["text"]) for entity in body["result"]["entities"]
        ] == [
            ("PER", 1, 3, "王明"),
            ("LOC", 5, 7, "北京"),
        ]
        _, _, body = await server.post("/predict", {"model": "emb", "version": "1.0.0", "text": "好"})
        assert len(body["result"]["embedding"]) == 4
        _, _, body = await server.post("/batch_predict", {"model": "sentiment-tiny", "input_texts": ["好", "坏"]})
        assert [result["label"] for result in body["results"]] == ["正面", "负面"]

    with_server(check)


def test_truncation_is_asked_for_and_told(with_server):
    async def check(server):
        long = {"model": "sentiment-tiny", "input_text": "好" * 40}
        status, _, body = await server.post("/predict", long)
        assert status == 422
        assert "16" in body["detail"]
        status, _, body = await server.post("/predict", long | {"parameters": {"truncate": True}})
        assert status == 200
        assert body["truncated"] is True
        assert body["result"]["truncated"] is True

    with_server(check)


REFUSALS = [
    (b"{", 400, "malformed", "body"),
    (b"[]", 400, "malformed", "body"),
    (b"\xff\xfe", 400, "malformed", "body"),
    (b'{"task_type": 3, "input_text": "x"}', 400, "malformed", "task_type"),
    (b'{"task_type": "ner", "input_text": 3}', 400, "malformed", "input_text"),
    (b'{"task_type": "ner", "input_text": null}', 400, "malformed", "input_text"),
    (b'{"task_type": "ner"}', 400, "malformed", "input_text"),
    (b'{"input_text": "x"}', 400, "malformed", "task_type"),
    (b'{"model": "ner", "text": "x", "parameters": []}', 400, "malformed", "parameters"),
    (b'{"model": "ner", "text": "x", "parameters": {"truncate": 1}}', 400, "malformed", "parameters.truncate"),
    (b'{"model": "nope", "text": "x"}', 404, "not-found", "model"),
    (b'{"model": "ner", "version": "9.9.9", "text": "x"}', 404, "not-found", "version"),
    (b'{"task_type": "generation", "text": "x"}', 404, "not-found", "task_type"),
    (b'{"task_type": "relation", "text": "x"}', 404, "not-found", "task_type"),
    (b'{"task_type": "poetry", "text": "x"}', 422, "unprocessable", "task_type"),
    (b'{"model": "ner", "text": ""}', 422, "unprocessable", "text"),
    (b'{"model": "adder", "text": "x"}', 422, "unprocessable", "model"),
    (b'{"model": "ner", "text": "' + b"x" * 70_000 + b'"}', 413, "too-large", "body"),
]


def test_every_refusal_is_a_problem_document_that_names_the_field(with_server):
    async def check(server):
        for body, expected, code, field in REFUSALS:
            status, headers, document = await server.post(
                "/predict", data=body, headers={"Content-Type": "application/json", "X-Request-Id": "me-1"}
            )
            assert (status, document["code"], document["field"]) == (expected, code, field), body[:60]
            assert headers["Content-Type"].startswith("application/problem+json")
            assert document["status"] == expected
            assert document["title"]
            assert document["type"]
            assert headers["X-Request-Id"] == document["request_id"] == "me-1"
        status, _, document = await server.post("/predict", data=b"text=x", headers={"Content-Type": "text/plain"})
        assert (status, document["code"]) == (415, "unsupported-media-type")
        status, _, document = await server.post("/batch_predict", {"model": "ner", "input_texts": ["好", ""]})
        assert (status, document["field"]) == (422, "texts[1]")
        status, _, document = await server.post("/batch_predict", {"model": "ner", "input_texts": []})
        assert (status, document["field"]) == (400, "input_texts")
        status, _, document = await server.post("/batch_predict", {"model": "ner", "input_texts": ["好", 3]})
        assert (status, document["field"]) == (400, "input_texts[1]")
        status, headers, document = await server.get("/predict")
        assert (status, document["allowed"], headers["Allow"]) == (405, "POST", "POST")
        status, _, document = await server.get("/nowhere")
        assert (status, document["code"]) == (404, "not-found")
        assert not server.lines

    with_server(check)


def test_headers_are_checked_and_deadlines_kept(with_server):
    async def check(server):
        body = {"model": "ner", "text": "好"}
        for name, value in (
            ("X-Tideline-Deadline-Ms", "soon"),
            ("X-Tideline-Deadline-Ms", "-1"),
            ("X-Tideline-Deadline-Ms", "nan"),
            ("X-Tideline-Priority", "high"),
            ("X-Tideline-Priority", "-1"),
            ("X-Tideline-Privacy", "p" * 200),
        ):
            status, _, document = await server.post("/predict", body, headers={name: value})
            assert (status, document["field"]) == (400, name)
        status, headers, document = await server.post("/predict", body, headers={"X-Tideline-Deadline-Ms": "0"})
        assert (status, document["code"]) == (429, "deadline")
        assert int(headers["Retry-After"]) >= 1
        status, _, document = await server.post("/predict", body, headers={"X-Tideline-Tenant": "nobody"})
        assert (status, document["code"]) == (401, "unauthenticated")
        status, _, _ = await server.post("/predict", body, headers={"X-Tideline-Tenant": "other"})
        assert status == 404
        status, headers, _ = await server.post("/predict", body, headers={"X-Request-Id": "not valid!"})
        assert status == 200
        assert headers["X-Request-Id"] != "not valid!"

    with_server(check)
