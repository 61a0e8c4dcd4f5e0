"""Bad input on every inference route: a refusal in the route's own shape that names the field, and the next request is answered."""

import asyncio
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.serving.oip.bounds import MOST
from shared.serving.oip.tensors import HEADER_LENGTH
from tests.shared.serving.bundles import TENANT
from tests.shared.serving.faces.server import everything

ADDER, NER, ECHO = "/v2/models/adder/infer", "/v2/models/ner/infer", "/v2/models/echo/infer"
X = {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}
NAN = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,3],"data":[%s,1,2]}]}'
SURROGATE = b'"\\ud800"'


def x(**fields):
    return json.dumps({"inputs": [X | fields]}).encode()


def texts(raw, name="text"):
    return b'{"inputs":[{"name":"%s","datatype":"BYTES","shape":[1],"data":[%s]}]}' % (name.encode(), raw)


BAD = {
    "dims whose product overflows": (ADDER, x(shape=[2**40, 2**40]), 400, "inputs[0].shape"),
    "a dim of 64 bits": (ADDER, x(shape=[2**63, 2]), 400, "inputs[0].shape"),
    "a dim past 64 bits": (ADDER, x(shape=[2**70]), 400, "inputs[0].shape"),
    "huge dims and no element": (ADDER, x(shape=[0, 2**62], data=[]), 400, "inputs[0].shape"),
    "negative dims": (ADDER, x(shape=[-1, -3]), 400, "inputs[0].shape"),
    "a hundred dims": (ADDER, x(shape=[1] * 98 + [3]), 400, "inputs[0].shape"),
    "a dim that is no number": (ADDER, x(shape=[1.5, 2]), 400, "inputs[0].shape[0]"),
    "a dim that is a bool": (ADDER, x(shape=[True, 3]), 400, "inputs[0].shape[0]"),
    "no dims": (ADDER, x(shape=[]), 400, "inputs[0].data"),
    "too few values": (ADDER, x(data=[1, 2]), 400, "inputs[0].data"),
    "nothing for values": (ADDER, x(data=[None, None, None]), 400, "inputs[0].data"),
    "objects for values": (ADDER, x(data=[{}, {}, {}]), 400, "inputs[0].data"),
    "NaN": (ADDER, NAN % b"NaN", 400, "invalid character"),
    "Infinity": (ADDER, NAN % b"-Infinity", 400, "body"),
    "a number past all floats": (ADDER, NAN % b"1e400", 400, "inputs[0].data[0]"),
    "a number of five thousand digits": (ADDER, NAN % (b"9" * 5000), 400, "inputs[0].data[0]"),
    "a number past the datatype": (ADDER, NAN % b"1e39", 400, "inputs[0].data"),
    "a tensor twice": (ADDER, json.dumps({"inputs": [X, X]}).encode(), 400, "inputs[1].name"),
    "an unknown output": (ADDER, json.dumps({"inputs": [X], "outputs": [{"name": "z"}]}).encode(), 400, "outputs[0].name"),
    "an unknown input": (ADDER, json.dumps({"inputs": [X, X | {"name": "z"}]}).encode(), 422, "unknown input"),
    "an id that is no text": (ADDER, json.dumps({"inputs": [X], "id": 7}).encode(), 400, "id"),
    "parameters that are a list": (ADDER, json.dumps({"inputs": [X], "parameters": []}).encode(), 400, "parameters"),
    "lists in lists": (ADDER, x(data=json.loads("[" * 500 + "1" + "]" * 500)), 400, "inputs[0].data"),
    "lists past all recursion": (ADDER, b'{"inputs":' + b"[" * 60_000, 400, "body"),
    "parameters past all recursion": (ADDER, b'{"inputs":[],"parameters":' + b'{"a":' * 10_000, 400, "body"),
    "a lone surrogate": (NER, texts(SURROGATE), 400, "body"),
    "a lone surrogate in UTF-8": (NER, texts(b'"\xed\xa0\x80"'), 400, "body"),
    "a lone surrogate for a program": (ECHO, texts(SURROGATE, "s"), 400, "body"),
    "bytes that are no UTF-8": (NER, texts(b'"\xff"'), 400, "body"),
    "UTF-16": (ADDER, x().decode().encode("utf-16"), 400, "body"),
    "nothing": (ADDER, b"", 400, "body"),
    "null": (ADDER, b"null", 400, "body"),
    "a list": (ADDER, b"[]", 400, "body"),
    "more behind the end": (ADDER, x() + b"x", 400, "trailing"),
    "a lone surrogate to predict": ("/predict", b'{"model":"ner","text":%s}' % SURROGATE, 400, "body"),
    "a lone surrogate to embed": ("/v1/embeddings", b'{"model":"emb","input":%s}' % SURROGATE, 400, "body"),
    "NaN to batch": ("/batch_predict", b'{"model":"ner","texts":[NaN]}', 400, "body"),
    "depth to predict": ("/predict", b'{"model":"ner","parameters":' + b'{"a":' * 10_000, 400, "body"),
    "depth to embed": ("/v1/embeddings", b'{"model":"emb","input":' + b"[" * 60_000, 400, "body"),
}  # fmt: skip


@pytest.fixture
def with_server(tmp_path):
    def run(check, **options):
        async def main():
            async with everything(tmp_path, **options) as server:
                await check(server)
                status, _, body = await server.post(ADDER, {"inputs": [X]})
                assert (status, body["outputs"][0]["data"]) == (200, [2, 4, 6])
                assert not server.lines, server.lines

        asyncio.run(main())

    return run


def shaped(path, body):
    """What an error says, once its shape was found to be the route's."""
    if path.startswith("/v2"):
        assert set(body) == {"error"}
        return body["error"]
    if path.startswith("/v1"):
        assert set(body["error"]) == {"message", "type", "param", "code"}
        return body["error"]["message"]
    assert {"type", "code", "title", "status", "detail"} <= set(body)
    return body["detail"]


def test_every_refusal_has_the_routes_shape_and_names_the_field(with_server):
    async def check(server):
        for name, (path, data, expected, says) in BAD.items():
            status, _, body = await server.post(path, data=data, headers={"Content-Type": "application/json"})
            assert status == expected, (name, body)
            assert says in shaped(path, body), name
            assert len(json.dumps(body)) < 2000, name

    with_server(check)


def test_texts_that_are_strange_are_texts_all_the_same(with_server):
    async def check(server):
        for text in ("\0", "a\0b", "NaN", "\ufffe", "\U0010ffff", "\u202e", "\x1b[31m", "\r\n\r\n", "\ufeff好"):
            status, _, body = await server.post("/predict", {"model": "ner", "text": text})
            # A text of nothing but what the tokenizer drops is an empty one.
            assert status in (200, 422), (text, body)
            status, _, body = await server.post(ECHO, data=texts(json.dumps(text).encode(), "s"))
            assert (status, body["outputs"][0]["data"]) == (200, [text])

    with_server(check)


def sized(size, shape=(1, 3), datatype="FP32"):
    tensor = {"name": "x", "datatype": datatype, "shape": list(shape), "parameters": {"binary_data_size": size}}
    return json.dumps({"inputs": [tensor]}).encode()


BINARY = {
    "too few": (sized(8), bytes(8), 400, "binary_data_size"),
    "too many": (sized(16), bytes(16), 400, "binary_data_size"),
    "fewer than told": (sized(12), bytes(11), 400, "binary_data_size"),
    "more than told": (sized(12), bytes(13), 400, "no tensor claims"),
    "a huge size": (sized(2**62), bytes(12), 400, "binary_data_size"),
    "a size past 64 bits": (sized(2**70), bytes(12), 400, "binary_data_size"),
    "a negative size": (sized(-12), bytes(12), 400, "binary_data_size"),
    "a size that is no number": (sized("x"), bytes(12), 400, "binary_data_size"),
    "both forms": (json.dumps({"inputs": [X | {"parameters": {"binary_data_size": 12}}]}).encode(), bytes(12), 400, "data twice"),
    "a shape past a limit": (sized(12, (2**40, 2**40)), bytes(12), 400, "inputs[0].shape"),
    "an element past the end": (sized(8, (1,), "BYTES"), b"\xff\xff\xff\xff1234", 400, "past the end"),
    "half a length": (sized(3, (1,), "BYTES"), b"\1\0\0", 400, "past the end"),
    "too many elements": (sized(8, (1,), "BYTES"), bytes(8), 400, "inputs[0].data"),
}  # fmt: skip


def test_binary_sizes_that_lie_are_refused(with_server):
    async def check(server):
        for name, (head, blob, expected, says) in BINARY.items():
            status, _, body = await server.post(ADDER, data=head + blob, headers={HEADER_LENGTH: str(len(head))})
            assert (status, says in shaped(ADDER, body)) == (expected, True), (name, body)
        for length in ("-5", "+5", "5.0", "९", "999999", "9" * 30, "", " "):
            status, _, body = await server.post(ADDER, data=x(), headers={HEADER_LENGTH: length})
            assert (status, HEADER_LENGTH in shaped(ADDER, body)) == (400, True), (length, body)

    with_server(check)


@pytest.mark.parametrize("kind", ["text/plain", "application/xml", "multipart/form-data; boundary=x", "a/b;;;"])
def test_other_media_types_are_refused(with_server, kind):
    async def check(server):
        for path in (ADDER, "/predict", "/v1/embeddings"):
            status, _, body = await server.post(path, data=x(), headers={"Content-Type": kind})
            assert (status, "Content-Type" in shaped(path, body)) == (415, True)

    with_server(check)


def test_more_lists_than_any_tensor_has_are_refused_before_they_are_made(with_server):
    async def check(server):
        data = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[' + b"[]," * MOST + b"[]]}]}"
        status, _, body = await server.post(ADDER, data=data)
        assert (status, "too many lists" in shaped(ADDER, body)) == (413, True)
        rows = [[float(i), 1.0, 2.0] for i in range(20_000)]
        status, _, body = await server.post(ADDER, data=x(shape=[20_000, 3], data=rows))
        assert (status, len(body["outputs"][0]["data"])) == (200, 60_000)

    with_server(check, max_body=1 << 24)


def test_headers_that_cannot_be_read_are_refused_or_passed_over(with_server):
    async def check(server):
        seen = []
        answer = server.engine.answer

        async def watched(request):
            seen.append(request)
            return await answer(request)

        server.engine.answer = watched
        for name, value, expected in (
            ("X-Tideline-Privacy", b"\xff\xfe", 400),
            ("X-Tideline-Privacy", "病历".encode(), 200),
            ("X-Tideline-Priority", b"-1", 400),
            ("X-Tideline-Deadline-Ms", b"nan", 400),
            ("traceparent", b"\xff" * 20, 200),
            ("traceparent", b"0" * 500, 200),
            ("X-Request-Id", b"\xff" * 20, 200),
            ("X-Request-Id", b"a" * 5000, 200),
        ):
            raw = b"\r\n".join((
                f"POST {ADDER} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(x())}".encode(),
                name.encode() + b": " + value, b"", x(),
            ))  # fmt: skip
            reader, writer = await asyncio.open_connection("127.0.0.1", int(server.url.rpartition(":")[2]))
            writer.write(raw)
            said = await asyncio.wait_for(reader.read(), 30)
            writer.close()
            assert int(said.split()[1]) == expected, said
        assert all(each.trace is None for each in seen)
        assert all(each.id.isascii() and len(each.id) < 100 for each in seen)
        del server.engine.answer

    with_server(check)


def test_one_id_twice_in_flight_is_answered_twice(with_server):
    async def check(server):
        headers = {"X-Request-Id": "twin"}
        asking = [server.post(ADDER, {"inputs": [X], "id": "twin"}, headers=headers) for _ in range(16)]
        for status, told, body in await asyncio.gather(*asking):
            assert (status, told["X-Request-Id"], body["id"]) == (200, "twin", "twin")
            assert body["outputs"][0]["data"] == [2, 4, 6]
        assert server.engine.load_of(TENANT, "adder").queued == 0

    with_server(check)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
tensors = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["x", "s", "text", ""]) | json_values,
        "datatype": st.sampled_from(["FP32", "BF16", "BYTES", "UINT64", "BOOL", "FP8"]) | json_values,
        "shape": st.lists(st.integers(-2, 4) | st.integers(-(2**65), 2**65), max_size=5) | json_values,
        "data": json_values,
        "parameters": st.dictionaries(st.sampled_from(["binary_data_size", "classification"]), json_values, max_size=2),
    },
)
messages = st.fixed_dictionaries(
    {"inputs": st.lists(tensors, max_size=3) | json_values},
    optional={"id": json_values, "outputs": st.lists(tensors, max_size=2) | json_values, "parameters": json_values},
)


def test_any_message_is_answered_or_refused(tmp_path):
    async def main():
        async with everything(tmp_path) as server:
            loop = asyncio.get_running_loop()

            @settings(max_examples=150, deadline=None)
            @given(st.sampled_from([ADDER, NER, ECHO]), messages)
            def ask(path, message):
                asking = asyncio.run_coroutine_threadsafe(server.post(path, message), loop)
                status, _, body = asking.result(30)
                assert status == 200 or 400 <= status < 500 or status in (501, 504), body
                assert status == 200 or set(body) == {"error"}

            await asyncio.to_thread(ask)
            assert not server.lines, server.lines

    asyncio.run(main())
