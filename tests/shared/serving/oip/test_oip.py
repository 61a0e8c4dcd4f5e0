import contextlib
import json

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from shared.bundle.manifest import TaskKind, TensorSpec
from shared.protocol.errors import Corrupt, Refused
from shared.protocol.reported import ModelState
from shared.serving.answer import (
    Embedding,
    Entities,
    Entity,
    Label,
    Relation,
    Relations,
    Request,
    Response,
    Tensors,
    Text,
    Timing,
    Where,
)
from shared.serving.catalog import Listed
from shared.serving.oip.http import Wishes, decode_request, decode_response, encode_request, encode_response
from shared.serving.sessions.datatypes import NUMPY, datatype_of

CONTEXT = Request(id="r1", tenant="default", model="")
INPUTS = (TensorSpec(name="x", datatype="FP32", shape=(-1, 3)),)
TENSOR = Listed(
    tenant="default", name="m", version="1.0.0", task=TaskKind.TENSOR, state=ModelState.READY, inputs=INPUTS,
    outputs=(TensorSpec(name="y", datatype="FP32", shape=(-1, 3)),),
)  # fmt: skip
TEXT = msgspec.structs.replace(TENSOR, task=TaskKind.TEXT_CLASSIFICATION, inputs=(), outputs=())


def infer(document, model=TENSOR, *, header=None, blobs=b"", now=0.0, context=CONTEXT):
    head = json.dumps(document).encode()
    length = len(head) if header == "given" else header
    return decode_request(head + blobs, length, model, context, now=now)


def same(one, two):
    assert one.shape == two.shape
    assert datatype_of(one) == datatype_of(two)
    if one.dtype.kind in "OSU":
        text = [[v.decode() if isinstance(v, bytes) else v for v in array.ravel().tolist()] for array in (one, two)]
        assert text[0] == text[1]
    else:
        np.testing.assert_array_equal(one, two)


shapes = arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
numbers = st.sampled_from([kind for name, kind in NUMPY.items() if name != "BYTES"]).flatmap(
    lambda kind: arrays.arrays(kind, shapes, elements={"allow_nan": False} if np.dtype(kind).kind == "f" else None)
)
strings = arrays.arrays(np.object_, shapes, elements=st.text(st.characters(codec="utf-8"), max_size=6))


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from("abc"), st.one_of(numbers, strings), min_size=1), st.booleans())
def test_tensors_survive_the_way_to_the_server_and_back(tensors, binary):
    if any(not np.isfinite(array).all() for array in tensors.values() if array.dtype.kind == "f") and not binary:
        return
    sent = encode_request(Request(id="q", tenant="t", model="m", tensors=tensors, priority=2), binary=binary)
    request, wishes = decode_request(sent.data, sent.header_length, TENSOR, CONTEXT, now=0.0)
    assert request.priority == 2
    assert wishes.binary == binary
    assert request.tensors.keys() == tensors.keys()
    for name, array in tensors.items():
        same(request.tensors[name], array)
    answer = response((Tensors(outputs=dict(request.tensors)),), "tensor")
    back = encode_response(answer, wishes)
    decoded = decode_response(back.data, back.header_length, id="q")
    for name, array in tensors.items():
        same(decoded.results[0].outputs[name], array)


def response(results, task):
    return Response(
        id="q", model="m", version="1.0.0", variant="cpu", digest="d" * 64, task=task, results=results,
        where=Where.LOCAL, why="served-here", timing=Timing(queue=0.001, compute=0.002),
    )  # fmt: skip


RESULTS = {
    "text-classification": (
        Label(label="好", score=0.75, scores={"坏": 0.25, "好": 0.75}),
        Label(label="坏", score=0.5, scores={"坏": 0.5, "好": 0.5}, truncated=True),
    ),
    "token-classification": (
        Entities(entities=(Entity(type="PER", start=0, end=2, text="王明", score=0.5),)),
        Entities(entities=(), truncated=True),
    ),
    "relation-extraction": (
        Relations(
            relations=(
                Relation(type="PER", subject=None, object="王明", score=0.5, object_start=0, object_end=2),
                Relation(
                    type="LOC",
                    subject="王明",
                    object="北京",
                    score=0.25,
                    object_start=3,
                    object_end=5,
                    subject_type="PER",
                    subject_start=0,
                    subject_end=2,
                    within=(Entity(type="ORG", start=0, end=1, text="王", score=0.5),),
                ),
            )
        ),
        Relations(relations=(), truncated=True),
    ),
    "text-generation": (Text(text="你好", tokens=2, prompt_tokens=3, finish="stop"),),
}


@pytest.mark.parametrize("task", RESULTS)
@pytest.mark.parametrize("binary", [False, True])
def test_typed_results_survive(task, binary):
    sent = encode_response(response(RESULTS[task], task), Wishes(id="e", binary=binary))
    back = decode_response(sent.data, sent.header_length, id="q")
    assert back == response(RESULTS[task], task)
    assert (sent.header_length is None) != binary


def test_embeddings_survive():
    vectors = tuple(Embedding(embedding=np.array([i, 0.1], np.float32), tokens=i) for i in range(3))
    for binary in (False, True):
        sent = encode_response(response(vectors, "text-embedding"), Wishes(binary=binary))
        back = decode_response(sent.data, sent.header_length, id="q")
        for one, two in zip(back.results, vectors, strict=True):
            np.testing.assert_array_equal(one.embedding, two.embedding)
            assert (one.tokens, one.truncated) == (two.tokens, False)


def test_text_requests_survive():
    request = Request(id="q", tenant="t", model="m", texts=("你好", ""), parameters={"truncate": True}, priority=3)
    sent = encode_request(request)
    back, wishes = decode_request(sent.data, sent.header_length, TEXT, CONTEXT, now=0.0)
    assert (back.texts, back.parameters, back.priority, back.id) == (request.texts, request.parameters, 3, "r1")
    assert wishes.id == "q"


def test_schedule_policy_shortens_the_deadline():
    text = {"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": [["好"]]}
    document = {"inputs": [text], "parameters": {"timeout": 250_000, "priority": 7, "truncate": True}}
    request, _ = infer(document, TEXT, now=10.0)
    assert request.deadline == pytest.approx(10.25)
    assert (request.priority, request.parameters) == (7, {"truncate": True})
    soon = msgspec.structs.replace(CONTEXT, deadline=10.1)
    assert infer(document, TEXT, now=10.0, context=soon)[0].deadline == 10.1


def one(**fields):
    return {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]} | fields]}


REFUSED = [
    ({}, "inputs"),
    ({"inputs": 3}, "inputs"),
    ({"inputs": [{"name": "x"}]}, "inputs[0]"),
    (one(datatype="FP31"), "inputs[0].datatype"),
    (one(datatype="FP8"), "inputs[0].datatype"),
    (one(shape=[-1, 3]), "inputs[0].shape"),
    (one(shape=[2, 3]), "inputs[0].data"),
    (one(shape=[1 << 20, 1 << 20]), "inputs[0].shape"),
    (one(data=[1, 2]), "inputs[0].data"),
    (one(data=[[1, 2], [3]]), "inputs[0].data"),
    (one(data=["a", "b", "c"]), "inputs[0].data"),
    (one(data="abc"), "inputs[0].data"),
    (one(data=None), "inputs[0].data"),
    (one(datatype="UINT8", data=[1, 2, 256]), "inputs[0].data"),
    (one(datatype="INT8", data=[1, 2, -129]), "inputs[0].data"),
    (one(datatype="INT32", data=[1, 2, 2.5]), "inputs[0].data"),
    (one(data=[1, 2, 1e300]), "inputs[0].data"),
    (one(datatype="FP16", data=[1, 2, 70_000]), "inputs[0].data"),
    (one(data=[1, 2, 10**30]), "inputs[0].data"),
    (one(datatype="BOOL", data=[1, 2, 3]), "inputs[0].data"),
    (one(datatype="BYTES", data=[1, 2, 3]), "inputs[0].data"),
    (one(data=[1, 2, 3], parameters={"binary_data_size": 12}), "inputs[0].data"),
    (one(data=None, parameters={"binary_data_size": 12}), "inputs[0].parameters.binary_data_size"),
    (one(data=None, parameters={"binary_data_size": -1}), "inputs[0].parameters.binary_data_size"),
    (one(shape=[1] * 32 + [3]), "inputs[0].shape"),
    (one(shape=[0, 1 << 62], data=[]), "inputs[0].shape"),
    (one(shape=[0, 1 << 30, 1 << 30], data=[]), "inputs[0].shape"),
    (one(datatype="BF16", data=[1, 2, 1e39]), "inputs[0].data"),
    (one(datatype="BF16", data=[1, 2, "3"]), "inputs[0].data"),
    (one(parameters={"classification": 2}), "inputs[0].parameters.classification"),
    (one() | {"outputs": [{"name": "y", "parameters": {"classification": 1}}]}, "outputs[0].parameters.classification"),
    (one() | {"parameters": {"sequence_id": 7}}, "parameters.sequence_id"),
    ({"inputs": one()["inputs"] * 2}, "inputs[1].name"),
    (one() | {"outputs": [{"name": "nope"}]}, "outputs[0].name"),
    (one() | {"parameters": {"timeout": "soon"}}, "parameters.timeout"),
    (one() | {"parameters": {"priority": -1}}, "parameters.priority"),
]


@pytest.mark.parametrize(("document", "field"), REFUSED)
def test_refusals_name_the_field(document, field):
    with pytest.raises(Refused) as caught:
        infer(document)
    assert caught.value.field.startswith(field)


def test_lists_may_be_nested_as_deep_as_json_goes():
    deep = "a"
    for _ in range(900):
        deep = [deep]
    request, _ = infer({"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": deep}]}, TEXT)
    assert request.texts == ("a",)


def test_refusals_of_text_models():
    for document, field in (
        (one(), "inputs"),
        ({"inputs": []}, "inputs"),
        (one(name="text"), "inputs[0].datatype"),
    ):
        with pytest.raises(Refused) as caught:
            infer(document, TEXT)
        assert caught.value.field == field


def test_refusals_of_binary_bodies():
    sized = one(data=None, parameters={"binary_data_size": 12})
    assert infer(sized, header="given", blobs=b"\0" * 12)[0].tensors["x"].tolist() == [[0, 0, 0]]
    for header, blobs in (("given", b"\0" * 11), ("given", b"\0" * 13), (0, b""), (10**6, b"")):
        with pytest.raises(Refused):
            infer(sized, header=header, blobs=blobs)
    text = {"name": "text", "datatype": "BYTES", "shape": [1]}
    for blob in (b"\xff\xff\xff\xff", b"\x01\0\0", b"\x01\0\0\0\xff", b"\x01\0\0\0a\x01\0\0\0b"):
        with pytest.raises(Refused):
            infer(
                {"inputs": [text | {"parameters": {"binary_data_size": len(blob)}}]}, TEXT, header="given", blobs=blob
            )


@given(st.binary(max_size=200), st.one_of(st.none(), st.integers(0, 300)))
def test_any_bytes_are_refused_or_read(body, header):
    for read in (
        lambda: decode_request(body, header, TEXT, CONTEXT, now=0.0),
        lambda: decode_response(body, header, id=""),
    ):
        with contextlib.suppress(Refused, Corrupt):
            read()
