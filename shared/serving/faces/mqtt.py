"""The MQTT face: one message is one request, whose answer or error is one message. Parse, ask the one port, respond.

Invariants: whatever came, either its client is told something or it is refused as a whole (`Refused`: nobody is named to be told);
what is told is what HTTP would tell, as a body and as fields beside it.
"""

import asyncio
import uuid
from collections.abc import Mapping
from typing import NamedTuple

import msgspec
from multidict import CIMultiDict

from shared.io.logs import Log
from shared.io.problems import problem_response
from shared.io.request_ids import request_id_of
from shared.protocol import inference, names
from shared.protocol.envelope import MAX_BYTES, Envelope, body_of, encode, unseal
from shared.protocol.errors import Refusal, Refused, TidelineError, Transient, Unavailable
from shared.protocol.inference import Plain
from shared.protocol.topics import Header
from shared.serving.answer import Request, Response
from shared.serving.catalog import Listed, pick
from shared.serving.faces.context import Ports, checked_count, context_in, headers_of
from shared.serving.faces.plain import plain_of
from shared.serving.oip.http import Wishes, decode_request, encode_response

LARGE = 64 * 1024
"""Bodies above this are read and written off the event loop."""


class Letter(NamedTuple):
    """A request that can be answered: who is told, and what the sender calls it."""

    envelope: Envelope
    client: str


class Told(NamedTuple):
    """What goes back: an HTTP status, the fields beside the body, and the body, JSON."""

    status: int
    fields: Mapping[str, str]
    body: bytes


class MqttFace:
    """Answers letters."""

    def __init__(self, ports: Ports, log: Log) -> None:
        self._ports = ports
        self._log = log

    async def open(self, payload: bytes) -> Letter:
        """The letter in `payload`.

        Raises:
            Refused: it cannot be read far enough to tell anybody.

        """
        if len(payload) > LARGE:
            return await asyncio.to_thread(_opened, payload)
        return _opened(payload)

    async def answer(self, letter: Letter, *, tenant: str, model: str) -> bytes:
        """The message that answers `letter`, whatever comes of it."""
        fields, known = CIMultiDict[str](), letter.envelope.id
        try:
            fields.update(inference.fields_of(letter.envelope))
        except Refused as error:
            return self._sealed(letter, _failed(error, known))
        known = request_id_of(fields.get(Header.REQUEST_ID, letter.envelope.id))
        try:
            told = await self._told(letter, fields, known, tenant=tenant, model=model)
        except TidelineError as error:
            told = _failed(error, known)
        except Exception as error:
            # As over HTTP: a bug of one request is that request's, and the log has it.
            self._log.exception("request failed", face="mqtt", request_id=known)
            told = _failed(error, known)
        return self._sealed(letter, told)

    def turned_away(self, letter: Letter, error: TidelineError) -> bytes:
        """The message that tells `error`, with nothing of the letter's body read."""
        return self._sealed(letter, _failed(error, letter.envelope.id))

    async def _told(self, letter: Letter, fields: Mapping[str, str], known: str, *, tenant: str, model: str) -> Told:
        ports, envelope = self._ports, letter.envelope
        size = len(bytes(envelope.body))
        if size > ports.max_body:
            raise Refused(
                "the body is too large", kind=Refusal.TOO_LARGE, field="body", value=size, allowed=f"{ports.max_body} B"
            )
        now = ports.clock.monotonic() - ports.lag()
        context = context_in(fields, id=known, tenant=tenant, version=None, now=now)
        if envelope.expires_at is not None:
            left = envelope.expires_at - ports.clock.wall()
            if left <= 0:
                raise Transient("the message has expired", why=Unavailable.DEADLINE)
            ends = now + left
            context = msgspec.structs.replace(
                context, deadline=ends if context.deadline is None else min(ends, context.deadline)
            )
        if ports.early is not None:
            ports.early(msgspec.structs.replace(context, model=model, body_bytes=size))
        if size > LARGE:
            asked, encoder = await asyncio.to_thread(self._read, envelope, context, model, now)
        else:
            asked, encoder = self._read(envelope, context, model, now)
        response = await ports.answer.answer(asked)
        body = await asyncio.to_thread(encoder.body, response) if size > LARGE else encoder.body(response)
        if len(body) > MAX_BYTES - LARGE:
            raise Refused(
                "the answer is too large for a message",
                kind=Refusal.TOO_LARGE,
                field="body",
                value=len(body),
                allowed="fewer inputs at once, or HTTP",
            )
        beside = {Header.REQUEST_ID: response.id, **headers_of(response)}
        return Told(200, {name.lower(): value for name, value in beside.items()}, body)

    def _read(self, envelope: Envelope, context: Request, name: str, now: float) -> "tuple[Request, _Encoder]":
        """The request, and what its answer is to look like."""
        raw = bytes(envelope.body)
        models = self._ports.catalog.models(context.tenant)
        probe = body_of(envelope, inference.REQUEST, dict[str, msgspec.Raw])
        if "inputs" in probe:
            version = msgspec.json.decode(probe["model_version"]) if "model_version" in probe else None
            model = pick(models, name, _version(version))
            asked, wishes = decode_request(
                raw, None, model, msgspec.structs.replace(context, version=_version(version)), now=now
            )
            if asked.texts is not None:
                checked_count(asked.texts, "inputs[0].shape")
            # A message is one piece of JSON: no tensor's bytes can follow it.
            named = None if wishes.outputs is None else dict.fromkeys(wishes.outputs, False)
            return asked, _Encoder(Wishes(id=wishes.id, outputs=named))
        plain = body_of(envelope, inference.REQUEST, Plain)
        model = pick(models, name, _version(plain.version))
        return _plain(plain, model, context, len(raw)), _Encoder(None, single=plain.many is None)

    def _sealed(self, letter: Letter, told: Told) -> bytes:
        beside: dict[str, object] = {
            inference.CORRELATION: letter.envelope.id,
            inference.STATUS: told.status,
            **told.fields,
        }
        return encode(
            Envelope(
                kind=inference.RESPONSE,
                id=str(uuid.uuid4()),
                sent_at=self._ports.clock.wall(),
                body=msgspec.Raw(told.body),
                trace=letter.envelope.trace,
                unknown={name: msgspec.Raw(msgspec.json.encode(value)) for name, value in beside.items()},
            )
        )


class _Encoder:
    """Writes an answer as its request wants it: Open Inference Protocol's, or plain where `wishes` is None."""

    def __init__(self, wishes: Wishes | None, *, single: bool = False) -> None:
        self._wishes = wishes
        self._single = single

    def body(self, response: Response) -> bytes:
        """JSON."""
        if self._wishes is not None:
            return encode_response(response, self._wishes).data
        document: dict[str, object] = {
            "request_id": response.id,
            "task": response.task,
            "model": response.model,
            "version": response.version,
            "where": response.where,
        }
        results = [plain_of(result) for result in response.results]
        document |= {"result": results[0]} if self._single else {"results": results}
        return msgspec.json.encode(document)


def _opened(payload: bytes) -> Letter:
    envelope = unseal(payload)
    if envelope.kind != inference.REQUEST:
        raise Refused("unexpected kind of message", field="kind", value=envelope.kind, allowed=inference.REQUEST)
    return Letter(envelope, inference.client_of(envelope))


def _failed(error: BaseException, known: str) -> Told:
    """What HTTP would tell, as a problem document."""
    problem = problem_response(error, request_id=known)
    beside = {name.lower(): value for name, value in problem.headers.items() if name.lower().startswith("retry-after")}
    body = problem.body if isinstance(problem.body, bytes) else b"null"
    return Told(problem.status, {Header.REQUEST_ID.lower(): known, **beside}, body)


def _version(version: object) -> str | None:
    return None if version is None else names.checked("version", str(version), field="version")


def _plain(plain: Plain, model: Listed, context: Request, size: int) -> Request:
    if not model.is_text:
        raise Refused(
            "the model takes tensors",
            kind=Refusal.UNPROCESSABLE,
            field="body",
            value=model.name,
            allowed=f"a body with inputs, as POST /v2/models/{model.name}/infer takes",
        )
    one, many = plain.one, plain.many
    if (one is None) == (many is None):
        raise Refused("not one way of saying the texts", field="body", allowed="one of text, texts, inputs")
    texts = (one,) if one is not None else checked_count(tuple(many or ()), "texts")
    return msgspec.structs.replace(
        context, model=model.name, version=plain.version, texts=texts, parameters=plain.parameters, body_bytes=size
    )
