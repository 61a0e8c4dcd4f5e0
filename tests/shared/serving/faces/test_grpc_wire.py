"""Our messages are on the wire what everybody else's are, and live beside them in one process."""

import pytest
from google.protobuf import descriptor_pb2
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2, service_pb2

from shared.protocol.errors import Refused
from shared.serving.faces.grpc_bounds import MOST, check_parts
from shared.serving.faces.grpc_messages import HEALTH, INFERENCE, STATUS
from shared.serving.faces.grpc_wire import messages

NESTED = {
    "TensorMetadata": "ModelMetadataResponse.TensorMetadata",
    "InferInputTensor": "ModelInferRequest.InferInputTensor",
    "InferRequestedOutputTensor": "ModelInferRequest.InferRequestedOutputTensor",
    "InferOutputTensor": "ModelInferResponse.InferOutputTensor",
    "ModelIndex": "RepositoryIndexResponse.ModelIndex",
}
"""Messages that stand inside others there; on the wire no message has a name."""


def theirs(name):
    path = NESTED.get(name, name).split(".")
    found = getattr(service_pb2, path[0], None) or getattr(model_config_pb2, path[0])
    return getattr(found, path[1]) if len(path) > 1 else found


def fields_of(message):
    """What the wire and a reader of each field depend on, by number."""
    written = descriptor_pb2.DescriptorProto()
    message.DESCRIPTOR.CopyToProto(written)
    found = {}
    for proto in written.field:
        field, inner = message.DESCRIPTOR.fields_by_number[proto.number], None
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            inner = field.message_type.fields_by_name["key"].type
        elif field.enum_type is not None:
            inner = [(value.name, value.number) for value in field.enum_type.values]
        found[proto.number] = (proto.name, proto.type, proto.label, proto.HasField("oneof_index"), inner)
    return found


@pytest.mark.parametrize("name", sorted(INFERENCE))
def test_every_field_is_tritons(name):
    ours, known = fields_of(INFERENCE[name]), fields_of(theirs(name))
    assert ours == {number: known[number] for number in ours}
    for field in INFERENCE[name].DESCRIPTOR.fields:
        inner = field.message_type
        if inner is not None and not inner.GetOptions().map_entry:
            meant = theirs(name).DESCRIPTOR.fields_by_number[field.number].message_type
            assert meant.full_name == theirs(inner.name).DESCRIPTOR.full_name


def test_what_one_side_writes_the_other_reads():
    request = service_pb2.ModelInferRequest(model_name="m", id="i", raw_input_contents=[b"\x01", b""])
    request.parameters["priority"].uint64_param = 2**63
    request.parameters["f"].double_param = 0.5
    request.inputs.add(name="x", datatype="INT8", shape=[1, -1]).contents.int_contents.extend([1, -1])
    read = INFERENCE["ModelInferRequest"].FromString(request.SerializeToString())
    assert (read.model_name, read.id, list(read.raw_input_contents)) == ("m", "i", [b"\x01", b""])
    assert read.parameters["priority"].uint64_param == 2**63
    assert list(read.inputs[0].contents.int_contents) == [1, -1]
    assert service_pb2.ModelInferRequest.FromString(read.SerializeToString()) == request
    # A field nobody here knows does not disturb: a newer client may send it.
    newer = request.SerializeToString() + b"\xf8\x07\x01"
    assert INFERENCE["ModelInferRequest"].FromString(newer).model_name == "m"


def test_known_bytes_of_the_other_protocols():
    assert HEALTH["HealthCheckRequest"](service="a").SerializeToString() == b"\n\x01a"
    assert HEALTH["HealthCheckResponse"](status="NOT_SERVING").SerializeToString() == b"\x08\x02"
    delay = STATUS["Duration"](seconds=1, nanos=500_000_000)
    assert STATUS["RetryInfo"](retry_delay=delay).SerializeToString() == b"\n\x08\x08\x01\x10\x80\xca\xb5\xee\x01"
    detail = STATUS["Any"](type_url="t", value=b"v")
    status = STATUS["Status"](code=8, message="m", details=[detail])
    assert status.SerializeToString() == b"\x08\x08\x12\x01m\x1a\x06\n\x01t\x12\x01v"


def test_a_table_that_is_wrong_says_where():
    with pytest.raises(ValueError, match="Broken: 'string = 1' is no field"):
        messages("broken", {"Broken": "string = 1"})


def crowded(**counts):
    """A request with so many tensors, outputs, parameters, and fields nobody knows."""
    request = INFERENCE["ModelInferRequest"](model_name="m", raw_input_contents=[bytes(100)])
    for i in range(counts.get("inputs", 0)):
        request.inputs.add(name=str(i))
    for i in range(counts.get("parameters", 0)):
        request.parameters[str(i)].int64_param = 2**40
    tensor = request.inputs.add(name="x", shape=[1, 2])
    for i in range(counts.get("inner", 0)):
        tensor.parameters[str(i)].double_param = 1.0
    return request.SerializeToString() + b"\xf8\x07\x01\xfd\x07abcd\xf9\x07abcdefgh" * counts.get("unknown", 0)


@pytest.mark.parametrize("part", ["inputs", "parameters", "inner", "unknown"])
def test_a_message_of_too_many_parts_is_refused_before_it_is_parsed(part):
    check_parts(crowded(**{part: 1000}))
    with pytest.raises(Refused, match="too many parts"):
        check_parts(crowded(**{part: MOST + 1}))


def test_elements_are_no_parts():
    request = INFERENCE["ModelInferRequest"](model_name="m")
    words = request.inputs.add(name="x", datatype="BYTES", shape=[2 * MOST]).contents.bytes_contents
    words.extend([b"a"] * 2 * MOST)
    check_parts(request.SerializeToString())


@given(st.binary(max_size=300))
def test_bytes_that_are_no_message_do_not_matter(data):
    check_parts(data)
    check_parts(b"\x2a" + bytes([len(data) & 127]) + data)
