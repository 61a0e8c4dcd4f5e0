"""One inference over gRPC: the message to a typed request, and the response to a message."""

import asyncio
from functools import partial
from typing import NamedTuple

from shared.io.web import LARGE
from shared.serving.answer import Request, Response
from shared.serving.catalog import Listed, pick
from shared.serving.faces.context import GrpcPorts, checked_count
from shared.serving.faces.grpc_call import Call, parsed
from shared.serving.faces.grpc_messages import INFERENCE
from shared.serving.faces.grpc_tensors import arrays_in, parameters_in, put_arrays, put_parameters
from shared.serving.faces.grpc_wire import Message
from shared.serving.oip.typed import answered, check_outputs, check_place, request_of


class Asked(NamedTuple):
    """A request, its model, and what its client wants back: an id, only some outputs, and raw bytes or typed contents."""

    request: Request
    model: Listed
    id: str
    outputs: frozenset[str] | None
    raw: bool


async def asked(data: bytes, call: Call, ports: GrpcPorts) -> Asked:
    """What the message in `data` asks.

    Raises:
        Refused: who asks may not, no such model, or the field that is wrong.

    """
    tenant = await ports.tenant_of(call.headers, False)
    large = len(data) > LARGE
    read = partial(parsed, INFERENCE["ModelInferRequest"], data)
    message = await asyncio.to_thread(read) if large else read()
    version = message.model_version or None
    now = ports.clock.monotonic()
    context = call.asks(tenant=tenant, version=version, now=now)
    model = pick(ports.catalog.models(tenant), message.model_name, version, field="model_name")
    decode = partial(_decoded, message, model, context, now=now, size=len(data))
    found = await asyncio.to_thread(decode) if large else decode()
    if found.request.texts is not None:
        checked_count(found.request.texts, "inputs[0].shape")
    return found


def message_of(response: Response, wanted: Asked) -> Message:
    """The response as its client asked for it."""
    arrays, parameters = answered(response, wanted.outputs)
    message = INFERENCE["ModelInferResponse"](model_name=response.model, model_version=response.version, id=wanted.id)
    put_parameters(message, parameters)
    put_arrays(message, arrays, raw=wanted.raw)
    return message


def _decoded(message: Message, model: Listed, context: Request, *, now: float, size: int) -> Asked:
    names = [wanted.name for wanted in message.outputs]
    check_outputs(names, model)
    for i, wanted in enumerate(message.outputs):
        check_place(wanted.parameters, f"outputs[{i}]")
    parameters = parameters_in(message.parameters)
    request = request_of(arrays_in(message), parameters, model, context, now=now, size=size)
    return Asked(request, model, message.id, frozenset(names) or None, bool(message.raw_input_contents))
