import onnx
import pytest
from google.protobuf import descriptor_pb2
from hypothesis import given
from hypothesis import strategies as st

from shared.serving.trial.protobuf import NotProtobufError, fields, integers, message_field, text, within

NAMES = st.text(max_size=20)


@given(
    names=st.lists(NAMES, max_size=5),
    dims=st.lists(st.integers(min_value=-(2**63), max_value=2**63 - 1), max_size=8),
    floats=st.lists(st.floats(width=32), max_size=4),
    raw=st.binary(max_size=300),
)
def test_what_the_library_writes_is_read(names, dims, floats, raw):
    tensor = onnx.TensorProto(name="".join(names), dims=dims, float_data=floats, raw_data=raw)
    data = tensor.SerializeToString()
    found = list(fields(memoryview(data)))
    assert b"".join(bytes(field.whole) for field in found) == data
    assert [size for field in found if field.number == 1 for size in integers(field.value)] == dims
    assert b"".join(bytes(field.value) for field in found if field.number == 9) == raw
    assert "".join(text(field.value) for field in found if field.number == 8) == "".join(names)


@given(st.lists(st.integers(min_value=-(2**63), max_value=2**63 - 1), max_size=20))
def test_packed_numbers(values):
    path = descriptor_pb2.SourceCodeInfo.Location(leading_comments="x")
    path.path.extend(value % 2**31 for value in values)
    numbers = [
        n for field in fields(memoryview(path.SerializeToString())) if field.number == 1 for n in integers(field.value)
    ]
    assert numbers == [value % 2**31 for value in values]


@given(st.integers(min_value=1, max_value=2**20), st.binary(max_size=400))
def test_what_is_written_is_read(number, content):
    (found,) = fields(memoryview(message_field(number, content)))
    assert (found.number, bytes(within(found.value))) == (number, content)


@given(st.binary(max_size=200))
def test_any_bytes_are_fields_or_refused(data):
    try:
        found = list(fields(memoryview(data)))
    except NotProtobufError:
        return
    assert b"".join(bytes(field.whole) for field in found) == data
    for field in found:
        assert field.number > 0


@pytest.mark.parametrize(
    "data", [b"\x00\x00", b"\x0a\x05abc", b"\x08", b"\x0b", b"\x08" + b"\xff" * 11, b"\x09\x00", b"\x0d\x00"]
)
def test_what_is_cut_or_no_field(data):
    with pytest.raises(NotProtobufError):
        list(fields(memoryview(data)))


def test_a_number_is_no_message():
    with pytest.raises(NotProtobufError):
        within(3)
