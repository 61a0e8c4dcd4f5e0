"""Between a message's named arrays and parameters and the typed request and response: alike in JSON, bytes and protobuf."""

from collections.abc import Collection, Mapping, Sequence

import msgspec
import numpy as np

from shared.protocol.errors import Refusal, Refused
from shared.serving.answer import Array, Request, Response
from shared.serving.catalog import Listed
from shared.serving.oip.results import TEXT_INPUT, Parameters, outputs_of, tensors_of
from shared.serving.oip.tensors import texts_in
from shared.serving.sessions.datatypes import datatype_of

FINAL = "triton_final_response"
"""Parameter of every answer on a stream: whether it is the request's last."""
_OWN = frozenset({"priority", "timeout", "binary_data_output", "triton_enable_empty_final_response"})
"""Request parameters that are the protocol's; the rest are the model's."""


def request_of(
    arrays: Mapping[str, Array], parameters: Parameters, model: Listed, context: Request, *, now: float, size: int
) -> Request:
    """The request for `model` a message of `size` bytes makes; `context` brings what the face knows already.

    The parameter `timeout` (microseconds) counts from `now` (monotonic seconds) and only ever shortens the deadline of `context`.

    Raises:
        Refused: names the field.

    """
    if parameters.get("sequence_id"):
        raise Refused(
            "sequences are not offered",
            kind=Refusal.UNSUPPORTED,
            field="parameters.sequence_id",
            allowed="requests that stand alone",
        )
    micros = whole(parameters, "timeout", 0)
    deadlines = [context.deadline, now + micros / 1e6 if micros else None]
    return msgspec.structs.replace(
        context,
        model=model.name,
        texts=_texts(arrays, model) if model.is_text else None,
        tensors=None if model.is_text else {name: _as_text(array) for name, array in arrays.items()},
        parameters={name: value for name, value in parameters.items() if name not in _OWN},
        priority=whole(parameters, "priority", context.priority),
        deadline=min((each for each in deadlines if each is not None), default=None),
        body_bytes=size,
    )


def check_outputs(names: Sequence[str], model: Listed) -> None:
    """Refuse an output `model` does not have."""
    known = {spec.name for spec in outputs_of(model)} if names else set()
    for i, name in enumerate(names):
        if known and name not in known and name != "truncated":
            allowed = ", ".join(sorted(known))
            raise Refused("unknown output", field=f"outputs[{i}].name", value=name, allowed=allowed)


def check_place(parameters: Mapping[str, object], field: str) -> None:
    """Refuse what is asked of a tensor and not offered: an answer without it would be taken for one with it."""
    if not parameters:
        return
    if parameters.get("classification"):
        raise Refused(
            "classification is not offered",
            kind=Refusal.UNSUPPORTED,
            field=f"{field}.parameters.classification",
            allowed="the output as it is",
        )
    if "shared_memory_region" in parameters:
        raise Refused(
            "shared memory is not offered",
            kind=Refusal.UNSUPPORTED,
            field=f"{field}.parameters.shared_memory_region",
            allowed="data in the message",
        )


def answered(response: Response, outputs: Collection[str] | None) -> tuple[dict[str, Array], Parameters]:
    """The arrays and parameters of a response; only those of `outputs` where it is given."""
    arrays, parameters = tensors_of(response.results)
    if outputs is not None:
        arrays = {name: array for name, array in arrays.items() if name in outputs}
    return arrays, parameters | {
        "task": response.task,
        "variant": response.variant,
        "digest": response.digest,
        "where": response.where.value,
        "why": response.why,
        "queue_ms": round(response.timing.queue * 1e3, 3),
        "compute_ms": round(response.timing.compute * 1e3, 3),
    }


def whole(parameters: Mapping[str, object], name: str, default: int, field: str = "parameters") -> int:
    """The whole number `name`, also where it came as text.

    Raises:
        Refused: something else.

    """
    if name not in parameters:
        return default
    value = parameters[name]
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise Refused("not a whole number", field=f"{field}.{name}", value=value, allowed="0 or more")
    return value


def _texts(arrays: Mapping[str, Array], model: Listed) -> tuple[str, ...]:
    for name in arrays:
        if name != TEXT_INPUT.name:
            raise Refused(
                "unknown input", kind=Refusal.UNPROCESSABLE, field="inputs", value=name, allowed=TEXT_INPUT.name
            )
    if TEXT_INPUT.name not in arrays:
        message = f"model {model.name} takes a text"
        raise Refused(message, kind=Refusal.UNPROCESSABLE, field="inputs", allowed=f"input {TEXT_INPUT.name} of BYTES")
    array = arrays[TEXT_INPUT.name]
    if datatype_of(array) != "BYTES":
        raise Refused(
            "wrong datatype",
            kind=Refusal.UNPROCESSABLE,
            field="inputs[0].datatype",
            value=datatype_of(array),
            allowed="BYTES",
        )
    return texts_in(array, "inputs[0]")


def _as_text(array: Array) -> Array:
    # ONNX string tensors hold text; what is not UTF-8 stays bytes and is the program's to refuse.
    if array.dtype.kind != "O":
        return array
    try:
        texts = texts_in(array, "inputs")
    except Refused:
        return array
    converted = np.empty(len(texts), dtype=np.object_)
    converted[:] = texts
    return converted.reshape(array.shape)
