"""Tensors in gRPC's messages: whatever is sent comes back, and what cannot be is refused by name."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from shared.protocol.errors import Refusal, Refused
from shared.serving.faces.grpc_messages import INFERENCE
from shared.serving.faces.grpc_tensors import arrays_in, parameters_in, put_arrays, put_parameters
from shared.serving.oip.tensors import to_binary
from shared.serving.sessions.datatypes import NUMPY, datatype_of

KINDS = [np.dtype(kind) for name, kind in NUMPY.items() if name != "BYTES"]


def as_request(response):
    """What a server answers, as a client would send it: input and output tensors are alike on the wire."""
    request = INFERENCE["ModelInferRequest"]()
    for tensor in response.outputs:
        request.inputs.add().ParseFromString(tensor.SerializeToString())
    request.raw_input_contents.extend(response.raw_output_contents)
    return request


def asking(*tensors, raw=()):
    request = INFERENCE["ModelInferRequest"](raw_input_contents=raw)
    for fields in tensors:
        request.inputs.add(**fields)
    return request


texts = st.lists(st.one_of(st.text(), st.binary(max_size=20)), max_size=6)
numbers = st.sampled_from(KINDS).flatmap(
    lambda kind: arrays.arrays(kind, arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
)


@given(st.dictionaries(st.text(min_size=1, max_size=5), numbers, min_size=1, max_size=4), texts, st.booleans())
def test_what_is_put_is_found(found, words, raw):
    found["words"] = np.empty(len(words), dtype=np.object_)
    found["words"][:] = words
    response = INFERENCE["ModelInferResponse"]()
    put_arrays(response, found, raw=raw)
    back = arrays_in(as_request(response))
    assert list(back) == list(found)
    for name, array in found.items():
        assert (datatype_of(back[name]), back[name].shape) == (datatype_of(array), array.shape)
        assert to_binary(back[name]) == to_binary(array)
    # Raw and typed are never mixed, and raw comes without contents.
    assert len(response.raw_output_contents) in (0, len(found))
    assert not (response.raw_output_contents and any(tensor.contents.ListFields() for tensor in response.outputs))
    assert bool(response.raw_output_contents) >= raw


value = st.one_of(st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), st.text())


@given(st.dictionaries(st.text(), value))
def test_parameters_keep_their_types(parameters):
    response = INFERENCE["ModelInferResponse"]()
    put_parameters(response, parameters)
    request = INFERENCE["ModelInferRequest"]()
    request.ParseFromString(response.SerializeToString())
    found = parameters_in(request.parameters)
    assert found == parameters
    assert {name: type(each) for name, each in found.items()} == {n: type(each) for n, each in parameters.items()}


def test_a_parameter_that_holds_nothing_is_not_there():
    request = INFERENCE["ModelInferRequest"]()
    request.parameters["empty"].SetInParent()
    assert parameters_in(request.parameters) == {}


X = {"name": "x", "datatype": "INT8", "shape": [2]}
BAD = [
    (asking(X | {"contents": {"int_contents": [1, 128]}}), "inputs[0].contents.int_contents", "128"),
    (asking(X | {"datatype": "UINT16", "contents": {"uint_contents": [1, 65536]}}), "uint_contents", "65536"),
    (asking(X | {"contents": {"int_contents": [1]}}), "inputs[0].contents.int_contents", "2 elements"),
    (asking(X), "inputs[0].contents.int_contents", "2 elements"),
    (asking(X | {"contents": {"int64_contents": [1, 2]}}), "inputs[0].contents.int64_contents", "int_contents"),
    (asking(X | {"contents": {"int_contents": [1, 2], "bool_contents": [True]}}), "bool_contents", "int_contents"),
    (asking(X | {"datatype": "FP16", "contents": {"fp32_contents": [1, 2]}}), "contents", "raw_input_contents"),
    (asking(X | {"datatype": "FP8"}), "inputs[0].datatype", "FP32"),
    (asking(X | {"datatype": ""}), "inputs[0].datatype", "FP32"),
    (asking(X | {"shape": [-1]}), "inputs[0].shape", "0 or more"),
    (asking(X | {"shape": [2**62, 2**62]}), "inputs[0].shape", "at most"),
    (asking(X, raw=[b"a"]), "raw_input_contents[0]", "2 for shape"),
    (asking(X, X, raw=[b"ab"]), "raw_input_contents", "2, one for each input"),
    (asking(X, raw=[b"ab", b"c"]), "raw_input_contents", "1, one for each input"),
    (asking(X, X | {"name": "x"}, raw=[b"ab", b"ab"]), "inputs[1].name", "twice"),
    (asking(X | {"contents": {"int_contents": [1, 2]}}, raw=[b"ab"]), "inputs[0].contents", "either"),
    (asking(X | {"datatype": "BYTES"}, raw=[b"\x01\0\0\0a\xff\0\0\0"]), "inputs[0].data[1]", "past the end"),
    (asking(X | {"datatype": "BYTES", "contents": {"bytes_contents": [b"a"]}}), "bytes_contents", "2 elements"),
]


@pytest.mark.parametrize(("request_", "field", "says"), BAD)
def test_refusals_name_the_field(request_, field, says):
    with pytest.raises(Refused) as caught:
        arrays_in(request_)
    assert field in caught.value.field
    assert says in caught.value.message
    assert caught.value.kind is Refusal.MALFORMED


@given(st.binary(max_size=200))
def test_garbage_is_a_message_or_refused(data):
    """Whatever parses is arrays or a refusal, never another error."""
    request = INFERENCE["ModelInferRequest"]()
    try:
        request.ParseFromString(data)
    except Exception:
        return
    try:
        arrays_in(request)
        parameters_in(request.parameters)
    except Refused:
        pass
