"""Open Inference Protocol v2 over HTTP: requests and responses, JSON and `binary_tensor_data`, both sides.

Specification: kserve/open-inference-protocol `inference_rest.md`, and Triton's extensions `binary_tensor_data`,
`schedule_policy` (parameters `priority` and `timeout` in microseconds), `model_repository` and `statistics`. A binary body is
the JSON part, `Inference-Header-Content-Length` bytes long, and then the blobs in the order of their tensors; where that
length is 0, it is the one input of the model and nothing else (`oip_raw`).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from shared.io.web import bad_json
from shared.protocol.errors import Corrupt, Refused
from shared.serving.answer import Array, Request, Response, Timing, Where
from shared.serving.catalog import Listed
from shared.serving.oip.bounds import check_finite, check_parts
from shared.serving.oip.raw import raw_input
from shared.serving.oip.results import TEXT_INPUT, results_of
from shared.serving.oip.tensors import HEADER_LENGTH, from_binary, from_json, parts_of, to_binary, to_json
from shared.serving.oip.typed import answered, check_outputs, check_place, request_of, whole
from shared.serving.sessions.datatypes import datatype_of

BINARY = "application/octet-stream"
JSON = "application/json"


class Tensor(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One input or output; `data` is absent where the bytes follow the JSON part."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, object] = {}
    data: object = None


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """An output the client asked for."""

    name: str
    parameters: dict[str, object] = {}


class InferRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The JSON part of a request."""

    inputs: list[Tensor]
    id: str = ""
    parameters: dict[str, object] = {}
    outputs: list[Wanted] = []


class InferResponse(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The JSON part of a response."""

    model_name: str
    outputs: list[Tensor]
    model_version: str = ""
    id: str = ""
    parameters: dict[str, object] = {}


class Wishes(NamedTuple):
    """What a client wants its response to be: the id to echo, which outputs (None: all), and which of them as bytes."""

    id: str = ""
    outputs: Mapping[str, bool] | None = None
    binary: bool = False


class Body(NamedTuple):
    """A message on its way: `header_length` is the JSON part's length where bytes follow it."""

    data: bytes
    header_length: int | None

    @property
    def headers(self) -> dict[str, str]:
        """The HTTP headers that go with it."""
        if self.header_length is None:
            return {"Content-Type": JSON}
        return {"Content-Type": BINARY, HEADER_LENGTH: str(self.header_length)}


_requests = msgspec.json.Decoder(InferRequest)
_responses = msgspec.json.Decoder(InferResponse)
_encode = msgspec.json.Encoder().encode


def decode_request(
    body: bytes, header_length: int | None, model: Listed, context: Request, *, now: float
) -> tuple[Request, Wishes]:
    """The request in `body` for `model`; `context` brings what the face knows already (id, tenant, version, deadline, …).

    The parameter `timeout` counts from `now` (monotonic seconds) and only ever shortens the deadline of `context`.

    Raises:
        Refused: names the field.

    """
    if header_length == 0:
        return request_of(raw_input(body, model), {}, model, context, now=now, size=len(body)), Wishes(binary=True)
    head, blobs = parts_of(body, header_length)
    check_parts(body, len(head))
    try:
        message = _requests.decode(head)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise bad_json(error) from error
    arrays = _arrays(message.inputs, blobs, "inputs")
    check_outputs([wanted.name for wanted in message.outputs], model)
    for i, wanted in enumerate(message.outputs):
        check_place(wanted.parameters, f"outputs[{i}]")
    binary = message.parameters.get("binary_data_output") is True
    wishes = Wishes(
        id=message.id,
        outputs={each.name: each.parameters.get("binary_data", binary) is True for each in message.outputs} or None,
        binary=binary,
    )
    return request_of(arrays, message.parameters, model, context, now=now, size=len(body)), wishes


def encode_request(request: Request, *, binary: bool = True) -> Body:
    """A request as a forwarder sends it; bytes for tensors, JSON for texts unless `binary`."""
    parameters: dict[str, object] = dict(request.parameters)
    if request.priority:
        parameters["priority"] = request.priority
    if request.texts is not None:
        texts: list[object] = list(request.texts)
        tensor = Tensor(name=TEXT_INPUT.name, datatype="BYTES", shape=[len(texts)], data=texts)
        return Body(_encode(InferRequest(id=request.id, inputs=[tensor], parameters=parameters)), None)
    if binary:
        parameters["binary_data_output"] = True
    tensors, blobs = _tensors(request.tensors or {}, lambda _: binary)
    return _body(InferRequest(id=request.id, inputs=tensors, parameters=parameters), blobs)


def encode_response(response: Response, wishes: Wishes = Wishes()) -> Body:  # noqa: B008 - a frozen value
    """A response as its client asked for it.

    Raises:
        Refused: it asked for JSON, which cannot tell infinity from no number.

    """
    arrays, parameters = answered(response, wishes.outputs)
    wanted = wishes.outputs

    def is_binary(name: str) -> bool:
        return wanted[name] if wanted is not None else wishes.binary

    tensors, blobs = _tensors(arrays, is_binary)
    message = InferResponse(
        model_name=response.model,
        model_version=response.version,
        id=wishes.id,
        parameters=parameters,
        outputs=tensors,
    )
    encoded = _body(message, blobs)
    # What is no number became null. Looking for that word costs less than looking at every number.
    if encoded.data.find(b"null", 0, encoded.header_length) >= 0:
        check_finite({name: array for name, array in arrays.items() if not is_binary(name)})
    return encoded


def decode_response(body: bytes, header_length: int | None, *, id: str, task: str | None = None) -> Response:
    """The typed response in `body`; `task` is believed where the server does not say (one that is not ours).

    Raises:
        Corrupt: not a response of this protocol.

    """
    try:
        head, blobs = parts_of(body, header_length)
        message = _responses.decode(head)
        arrays = _arrays(message.outputs, blobs, "outputs")
    except (Refused, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Corrupt(f"the answer is not one of the Open Inference Protocol: {error}") from error
    said = message.parameters
    kind = str(said.get("task") or task or "tensor")
    return Response(
        id=id,
        model=message.model_name,
        version=message.model_version,
        variant=str(said.get("variant", "")),
        digest=str(said.get("digest", "")),
        task=kind,
        results=results_of(kind, arrays, said),
        where=Where(str(said["where"])) if said.get("where") in tuple(Where) else Where.CLOUD,
        why=str(said.get("why", "")),
        timing=Timing(queue=_seconds(said.get("queue_ms")), compute=_seconds(said.get("compute_ms"))),
    )


def _arrays(tensors: Sequence[Tensor], blobs: memoryview, side: str) -> dict[str, Array]:
    found: dict[str, Array] = {}
    place = 0
    for i, tensor in enumerate(tensors):
        field = f"{side}[{i}]"
        if tensor.name in found:
            raise Refused("a tensor stands twice", field=f"{field}.name", value=tensor.name)
        check_place(tensor.parameters, field)
        if "binary_data_size" in tensor.parameters:
            if tensor.data is not None:
                raise Refused("data twice", field=f"{field}.data", allowed="either this or parameters.binary_data_size")
            size = whole(tensor.parameters, "binary_data_size", 0, f"{field}.parameters")
            if place + size > len(blobs):
                raise Refused(
                    "more bytes than the body has",
                    field=f"{field}.parameters.binary_data_size",
                    value=size,
                    allowed=f"at most {len(blobs) - place}",
                )
            found[tensor.name] = from_binary(tensor.datatype, tensor.shape, blobs[place : place + size], field)
            place += size
        elif tensor.data is None:
            raise Refused("missing data", field=f"{field}.data", allowed="data, or parameters.binary_data_size")
        else:
            found[tensor.name] = from_json(tensor.datatype, tensor.shape, tensor.data, field)
    if place != len(blobs):
        raise Refused("bytes that no tensor claims", field="body", value=len(blobs) - place)
    return found


def _tensors(arrays: Mapping[str, Array], is_binary: Callable[[str], bool]) -> tuple[list[Tensor], list[bytes]]:
    tensors: list[Tensor] = []
    blobs: list[bytes] = []
    for name, array in arrays.items():
        datatype, shape = datatype_of(array), list(array.shape)
        if is_binary(name):
            blob = to_binary(array)
            blobs.append(blob)
            tensors.append(
                Tensor(name=name, datatype=datatype, shape=shape, parameters={"binary_data_size": len(blob)})
            )
        else:
            tensors.append(Tensor(name=name, datatype=datatype, shape=shape, data=to_json(array)))
    return tensors, blobs


def _body(message: InferRequest | InferResponse, blobs: Sequence[bytes]) -> Body:
    head = _encode(message)
    return Body(b"".join((head, *blobs)), len(head)) if blobs else Body(head, None)


def _seconds(milliseconds: object) -> float:
    return float(milliseconds) / 1e3 if isinstance(milliseconds, int | float) else 0.0
