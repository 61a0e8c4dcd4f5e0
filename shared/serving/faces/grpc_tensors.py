"""Tensors in gRPC's inference messages, both ways: typed contents, or raw bytes beside the tensors.

Typed contents widen small integers and have no 16-bit float; raw bytes are those of the binary extension over HTTP. An answer
comes as its request did.
"""

from collections.abc import Mapping

import numpy as np

from shared.protocol.errors import Refused
from shared.serving.answer import Array
from shared.serving.faces.grpc_wire import Message
from shared.serving.oip.results import Parameters
from shared.serving.oip.tensors import bytes_of, check_count, check_range, checked_size, from_binary, to_binary
from shared.serving.oip.typed import check_place
from shared.serving.sessions.datatypes import NUMPY, datatype_of

_CONTENTS = {
    "BOOL": ("bool_contents", np.bool_),
    "INT8": ("int_contents", np.int32),
    "INT16": ("int_contents", np.int32),
    "INT32": ("int_contents", np.int32),
    "INT64": ("int64_contents", np.int64),
    "UINT8": ("uint_contents", np.uint32),
    "UINT16": ("uint_contents", np.uint32),
    "UINT32": ("uint_contents", np.uint32),
    "UINT64": ("uint64_contents", np.uint64),
    "FP32": ("fp32_contents", np.float32),
    "FP64": ("fp64_contents", np.float64),
    "BYTES": ("bytes_contents", np.object_),
}
"""Which list holds a datatype, and as what; FP16 travels raw only."""


def arrays_in(message: Message) -> dict[str, Array]:
    """The inputs of a request.

    Raises:
        Refused: names the field.

    """
    inputs, raw = message.inputs, message.raw_input_contents
    if raw and len(raw) != len(inputs):
        allowed = f"{len(inputs)}, one for each input"
        raise Refused("not as many as there are inputs", field="raw_input_contents", value=len(raw), allowed=allowed)
    found: dict[str, Array] = {}
    for i, tensor in enumerate(inputs):
        field = f"inputs[{i}]"
        if tensor.name in found:
            raise Refused("a tensor stands twice", field=f"{field}.name", value=tensor.name)
        check_place(tensor.parameters, field)
        if not raw:
            found[tensor.name] = _typed(tensor, field)
        elif tensor.contents.ListFields():
            raise Refused("contents twice", field=f"{field}.contents", allowed="either these or raw_input_contents")
        else:
            blob = memoryview(raw[i])
            size_field = f"raw_input_contents[{i}]"
            found[tensor.name] = from_binary(tensor.datatype, tuple(tensor.shape), blob, field, size_field)
    return found


def put_arrays(message: Message, arrays: Mapping[str, Array], *, raw: bool) -> None:
    """Add the outputs to a response; all of them are raw where one has no typed form."""
    raw = raw or any(datatype_of(array) not in _CONTENTS for array in arrays.values())
    for name, array in arrays.items():
        datatype = datatype_of(array)
        tensor = message.outputs.add(name=name, datatype=datatype, shape=array.shape)
        if raw:
            message.raw_output_contents.append(to_binary(array))
            continue
        values = array.ravel().tolist()
        if datatype == "BYTES":
            values = [bytes_of(value) for value in values]
        getattr(tensor.contents, _CONTENTS[datatype][0]).extend(values)


def parameters_in(parameters: Mapping[str, Message]) -> Parameters:
    """Parameters as plain values; one that holds nothing, or something newer than this, is not there."""
    held = {name: value.WhichOneof("choice") for name, value in parameters.items()}
    return {name: getattr(parameters[name], choice) for name, choice in held.items() if choice is not None}


def put_parameters(message: Message, parameters: Parameters) -> None:
    """Add parameters to a response."""
    for name, value in parameters.items():
        parameter = message.parameters[name]
        match value:
            case bool():
                parameter.bool_param = value
            case int():
                parameter.int64_param = value
            case float():
                parameter.double_param = value
            case _:
                parameter.string_param = str(value)


def _typed(tensor: Message, field: str) -> Array:
    datatype, shape = tensor.datatype, tuple(tensor.shape)
    size = checked_size(datatype, shape, field)
    if datatype not in _CONTENTS:
        raise Refused(
            "no typed contents for this datatype",
            field=f"{field}.contents",
            value=datatype,
            allowed="raw_input_contents",
        )
    name, kind = _CONTENTS[datatype]
    for given, _ in tensor.contents.ListFields():
        if given.name != name:
            raise Refused("values of another type", field=f"{field}.contents.{given.name}", allowed=name)
    held = getattr(tensor.contents, name)
    check_count(len(held), size, shape, f"{field}.contents.{name}")
    if datatype == "BYTES":
        array: Array = np.empty(size, dtype=np.object_)
        array[:] = list(held)
        return array.reshape(shape)
    values: Array = np.fromiter(held, dtype=kind, count=size)
    if size:
        check_range(values, datatype, f"{field}.contents.{name}")
    return values.astype(NUMPY[datatype], copy=False).reshape(shape)
