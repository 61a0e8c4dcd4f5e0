"""One gRPC call: metadata and deadline in, the answer's metadata out, errors as a status a client can act on.

Metadata are HTTP's headers in lower case. An error's status comes from the one table of statuses; beside its message travel,
as `google.rpc` details, the stable code and, where the error knows when to come back, the delay, which gRPC's own retries
are told as well.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Any

import grpc
import msgspec
from google.protobuf.message import DecodeError
from multidict import CIMultiDict

from shared.io.logs import Log
from shared.io.problems import failure_of
from shared.io.request_ids import request_id_of
from shared.io.web import LARGE
from shared.protocol.errors import Corrupt, Refusal, Refused, TidelineError
from shared.protocol.status import status_of
from shared.protocol.topics import Header
from shared.serving.answer import Request, Response
from shared.serving.faces.context import context_in, headers_of
from shared.serving.faces.grpc_bounds import check_parts
from shared.serving.faces.grpc_messages import STATUS
from shared.serving.faces.grpc_wire import Message

_CODES = {code.value[0]: code for code in grpc.StatusCode}
_LONGEST_MESSAGE = 1000
"""Bytes: a client takes 8 KiB of metadata, and there a byte that is not ASCII is three characters."""
_DOMAIN = "tideline"


class Call:
    """Made at the beginning of a call, in its own task."""

    def __init__(self, context: Any) -> None:
        """`context`: gRPC's own."""
        self.context = context
        given = context.invocation_metadata() or ()
        self.headers = CIMultiDict((name, value) for name, value in given if isinstance(value, str))
        self.id = request_id_of(self.headers.get(Header.REQUEST_ID))

    def asks(self, *, tenant: str, version: str | None, now: float) -> Request:
        """What metadata and deadline say of the request; of two deadlines the shorter counts.

        Raises:
            Refused: metadata is malformed.

        """
        request = context_in(self.headers, id=self.id, tenant=tenant, version=version, now=now)
        left = self.context.time_remaining()
        if left is None or (request.deadline is not None and request.deadline <= now + left):
            return request
        return msgspec.structs.replace(request, deadline=now + left)

    def answered(self, response: Response | None = None) -> None:
        """Send the request's id and what `response` says of itself with the end of the call."""
        named = headers_of(response) if response is not None else {}
        self.context.set_trailing_metadata(self._metadata(named))

    async def abort(self, error: BaseException) -> None:
        """End the call with the status of `error`; never returns."""
        failure = failure_of(error)
        code = status_of(error).grpc
        message = failure.detail.encode(errors="replace")[:_LONGEST_MESSAGE].decode(errors="ignore")
        details = [_detail("ErrorInfo", STATUS["ErrorInfo"](reason=failure.code, domain=_DOMAIN))]
        metadata = {}
        if failure.retry_after is not None:
            milliseconds = max(1, round(failure.retry_after * 1000))
            metadata["grpc-retry-pushback-ms"] = str(milliseconds)
            seconds, rest = divmod(milliseconds, 1000)
            delay = STATUS["Duration"](seconds=seconds, nanos=rest * 1_000_000)
            details.append(_detail("RetryInfo", STATUS["RetryInfo"](retry_delay=delay)))
        status = STATUS["Status"](code=code, message=message, details=details).SerializeToString()
        trailing = (*self._metadata(metadata), ("grpc-status-details-bin", status))
        await self.context.abort(_CODES[code], message, trailing)

    def _metadata(self, named: dict[str, str]) -> tuple[tuple[str, str], ...]:
        whole = {Header.REQUEST_ID: self.id} | named
        return tuple((name.lower(), _printable(value)) for name, value in whole.items())


def unary(
    parse: Callable[[bytes], Any],
    handle: Callable[[Any, Call], Awaitable[Message]],
    log: Log,
    around: AbstractContextManager[None],
    patience: float,
) -> Any:
    """The gRPC method that lets `handle` answer what `parse` makes of a message, and says what went wrong.

    Each call runs inside `around`, which may refuse it, and its message has `patience` seconds to come.
    """

    async def method(_: AsyncIterator[bytes], context: Any) -> bytes:
        call = Call(context)
        try:
            with around:
                data = await _message_in(context, patience)
                answer: bytes = (await handle(parse(data), call)).SerializeToString()
        except Exception as error:
            told(error, call, log)
            await call.abort(error)
            raise
        return answer

    # Without (de)serializers bytes come and go, and what cannot be parsed is refused as everything else is. On the wire a
    # stream of one message is one message; gRPC itself would wait for it without end, before it asks us anything.
    return grpc.stream_unary_rpc_method_handler(method)


def parsed(into: Message, data: bytes) -> Message:
    """The message in `data`.

    Raises:
        Refused: it is not one, or has too many parts.

    """
    if len(data) > LARGE:
        check_parts(data)
    try:
        return into.FromString(data)
    except DecodeError as error:
        raise Refused("not a message of this method", field="message", allowed=into.DESCRIPTOR.full_name) from error


def told(error: BaseException, call: Call, log: Log) -> None:
    """Log what a human must look at: refusals and overload are counted where they happen."""
    if isinstance(error, Corrupt):
        log.error("request failed", code=error.code, error=error.message, request_id=call.id, exc_info=error)
    elif not isinstance(error, TidelineError):
        log.error("unexpected error in a request", request_id=call.id, exc_info=error)


async def _message_in(context: Any, patience: float) -> bytes:
    try:
        async with asyncio.timeout(patience):
            data: bytes | object = await context.read()
    except TimeoutError as error:
        allowed = f"all of it in {patience:g} s"
        raise Refused("the message came too slowly", kind=Refusal.TOO_SLOW, field="message", allowed=allowed) from error
    if not isinstance(data, bytes):
        raise Refused("no message", field="message", allowed="one")
    return data


def _detail(name: str, message: Message) -> Message:
    return STATUS["Any"](type_url=f"type.googleapis.com/google.rpc.{name}", value=message.SerializeToString())


def _printable(value: str) -> str:
    return "".join(letter if " " <= letter <= "~" else "?" for letter in value)
