"""Tensors of the Open Inference Protocol v2: JSON data and the binary extension, both ways.

Binary layout: row-major, little-endian; BYTES elements are a uint32 length and the bytes. Every refusal names the tensor's
field as `inputs[0].data`.
"""

import math
from collections.abc import Sequence

import numpy as np

from shared.protocol.errors import Refused
from shared.serving.answer import Array
from shared.serving.sessions.datatypes import BF16, HELD, NUMPY, from_bf16, to_bf16

HEADER_LENGTH = "Inference-Header-Content-Length"

_KINDS = {"BOOL": "b", "FP16": "iuf", "BF16": "iuf", "FP32": "iuf", "FP64": "iuf"}
_MAX_ELEMENTS = 1 << 31
_MAX_RANK = 32


def checked_size(datatype: str, shape: Sequence[int], field: str) -> int:
    """How many elements a tensor has.

    Raises:
        Refused: an unknown datatype, a negative dimension, or too many of them, or too large ones.

    """
    if datatype not in HELD:
        raise Refused("unknown datatype", field=f"{field}.datatype", value=datatype, allowed=", ".join(HELD))
    if len(shape) > _MAX_RANK:
        raise Refused("too many dimensions", field=f"{field}.shape", value=len(shape), allowed=f"at most {_MAX_RANK}")
    if shape and min(shape) < 0:
        raise Refused("negative dimension", field=f"{field}.shape", value=list(shape), allowed="0 or more")
    size = math.prod(shape)
    # An array without elements has its other dimensions all the same.
    if size > _MAX_ELEMENTS or (size == 0 and math.prod(filter(None, shape)) > _MAX_ELEMENTS):
        raise Refused(
            "too many elements", field=f"{field}.shape", value=list(shape), allowed=f"at most {_MAX_ELEMENTS}"
        )
    return size


def check_count(found: int, size: int, shape: Sequence[int], field: str) -> None:
    """Refuse data of `found` elements that does not fill `shape`, which has `size`."""
    if found != size:
        raise Refused(
            "the data does not fill the shape",
            field=field,
            value=found,
            allowed=f"{size} elements for shape {list(shape)}",
        )


def check_range(values: Array, datatype: str, field: str) -> None:
    """Refuse whole numbers that a narrower `datatype` cannot hold; `values` is not empty."""
    if datatype.startswith(("INT", "UINT")):
        bounds = np.iinfo(np.dtype(NUMPY[datatype]))
        low, high = int(values.min()), int(values.max())
        if low < bounds.min or high > bounds.max:
            value = low if low < bounds.min else high
            raise Refused("out of range", field=field, value=value, allowed=f"{bounds.min} to {bounds.max}")


def from_json(datatype: str, shape: Sequence[int], data: object, field: str) -> Array:
    """The array of `data`, a flat or nested list.

    Raises:
        Refused: as `checked_size`; not as many elements as the shape says, or one the datatype cannot hold.

    """
    size = checked_size(datatype, shape, field)
    if not isinstance(data, list):
        raise Refused("not a list", field=f"{field}.data", value=type(data).__name__, allowed="a flat or nested list")
    if datatype == "BYTES":
        texts = _flat(data, field)
        check_count(len(texts), size, shape, f"{field}.data")
        array = np.empty(size, dtype=np.object_)
        array[:] = texts
        return array.reshape(shape)
    try:
        values = np.asarray(data)
    except (ValueError, OverflowError) as error:
        raise Refused("rows of unequal length, or of mixed types", field=f"{field}.data") from error
    if datatype == "UINT64" and values.dtype.kind == "f":
        # Numbers on both sides of 2**63 have no integer type in common for numpy, which takes float64 and loses digits.
        exact: list[object] = np.asarray(data, dtype=np.object_).ravel().tolist()
        if all(type(value) is int and 0 <= value < 2**64 for value in exact):
            values = np.asarray(exact, dtype=np.uint64)
    check_count(values.size, size, shape, f"{field}.data")
    if size == 0:
        return np.empty(shape, dtype=HELD[datatype])
    if values.dtype.kind in "iub" and values.dtype == NUMPY[datatype]:
        # Exactly what was asked for, as token ids are: there is nothing to convert, nor a number to be out of range.
        return values.reshape(shape)
    if values.dtype.kind not in _KINDS.get(datatype, "iu"):
        raise Refused("values of another type", field=f"{field}.data", allowed=datatype)
    check_range(values, datatype, f"{field}.data")
    with np.errstate(over="ignore"):
        numbers: Array = to_bf16(values) if datatype == "BF16" else values.astype(NUMPY[datatype])
    # JSON has no infinity, so one that is there now was a number the datatype cannot hold.
    if not is_finite(numbers):
        raise Refused("out of range", field=f"{field}.data", value=float(np.abs(values).max()), allowed=datatype)
    return numbers.reshape(shape)


def from_binary(
    datatype: str, shape: Sequence[int], raw: memoryview, field: str, size_field: str | None = None
) -> Array:
    """The array in `raw`, exactly; `size_field` is what a refusal calls its length.

    Raises:
        Refused: as `checked_size`; not as many bytes as the shape says.

    """
    size = checked_size(datatype, shape, field)
    if datatype == "BYTES":
        return _bytes_elements(raw, size, field).reshape(shape)
    kind = np.dtype(HELD[datatype]).newbyteorder("<")
    if len(raw) != size * kind.itemsize:
        raise Refused(
            "the bytes do not fill the shape",
            field=size_field or f"{field}.parameters.binary_data_size",
            value=len(raw),
            allowed=f"{size * kind.itemsize} for shape {list(shape)} of {datatype}",
        )
    return np.frombuffer(raw, dtype=kind).reshape(shape)


def is_finite(array: Array) -> bool:
    """Whether every element is a number that JSON has."""
    if array.dtype == BF16:
        array = from_bf16(array)
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())


def to_json(array: Array) -> list[object]:
    """Flat list of the elements; bytes become text."""
    if array.dtype == BF16:
        array = from_bf16(array)
    flat: list[object] = array.ravel().tolist()
    return [_text(value) for value in flat] if array.dtype.kind in "OSU" else flat


def to_binary(array: Array) -> bytes:
    """The elements as they travel."""
    if array.dtype.kind not in "OSU":
        return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes()
    parts: list[bytes] = []
    for value in array.ravel().tolist():
        raw = bytes_of(value)
        parts += (len(raw).to_bytes(4, "little"), raw)
    return b"".join(parts)


def bytes_of(element: object) -> bytes:
    """A BYTES element as it travels."""
    return element if isinstance(element, bytes) else str(element).encode("utf-8", "surrogatepass")


def texts_in(array: Array, field: str) -> tuple[str, ...]:
    """BYTES elements as text.

    Raises:
        Refused: an element that is not UTF-8.

    """
    found: list[str] = []
    for i, value in enumerate(array.ravel().tolist()):
        try:
            found.append(value.decode() if isinstance(value, bytes) else str(value))
        except UnicodeDecodeError as error:
            raise Refused("not UTF-8", field=f"{field}.data[{i}]", allowed="UTF-8 text") from error
    return tuple(found)


def _bytes_elements(raw: memoryview, size: int, field: str) -> Array:
    values: list[bytes] = []
    place = 0
    while place < len(raw) and len(values) <= size:
        end = place + 4 + int.from_bytes(raw[place : place + 4], "little")
        if place + 4 > len(raw) or end > len(raw):
            raise Refused("an element reaches past the end", field=f"{field}.data[{len(values)}]")
        values.append(bytes(raw[place + 4 : end]))
        place = end
    check_count(len(values), size, [size], f"{field}.data")
    array = np.empty(size, dtype=np.object_)
    array[:] = values
    return array


def _flat(data: list[object], field: str) -> list[str]:
    found: list[str] = []
    # Lists may be nested as deep as the JSON decoder allows: no recursion here.
    waiting = [iter(data)]
    while waiting:
        for value in waiting[-1]:
            if isinstance(value, list):
                waiting.append(iter(value))
                break
            if not isinstance(value, str):
                raise Refused("values of another type", field=f"{field}.data", value=value, allowed="text (BYTES)")
            found.append(value)
        else:
            waiting.pop()
    return found


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def parts_of(body: bytes, header_length: int | None) -> tuple[memoryview, memoryview]:
    """The JSON part of a body and the blobs behind it; all is JSON where the header gave no length."""
    view = memoryview(body)
    if header_length is None:
        return view, view[len(view) :]
    if not 0 < header_length <= len(body):
        raise Refused(
            "bad length", field=HEADER_LENGTH, value=header_length, allowed=f"1 to {len(body)}, the body's own"
        )
    return view[:header_length], view[header_length:]
