"""`ModelStreamInfer`: many requests on one stream, answered side by side; generated text comes piece by piece.

Invariants:

* answers that come whole keep the order of their requests, pieces of texts come as they are computed: their `id` says whose
  they are;
* a request that fails is an error message on the stream, which goes on;
* a stream reads no more requests than it may have in flight: a fast client waits;
* a stream that ends, however it ends, takes what it still has waiting with it.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import grpc

from shared.bundle.manifest import TaskKind
from shared.io.problems import failure_of
from shared.protocol.errors import Refused, Transient
from shared.protocol.status import status_of
from shared.serving.answer import Response, Text
from shared.serving.faces.context import GrpcPorts
from shared.serving.faces.grpc_call import Call, parsed, told
from shared.serving.faces.grpc_flights import Flights, stopping
from shared.serving.faces.grpc_infer import Asked, asked, message_of
from shared.serving.faces.grpc_messages import INFERENCE
from shared.serving.faces.grpc_tensors import put_parameters
from shared.serving.faces.grpc_wire import Message
from shared.serving.oip.typed import FINAL

IN_FLIGHT = 64
"""Requests of one stream that are answered at once."""


class StreamInfer:
    """The method, for all its streams."""

    def __init__(self, ports: GrpcPorts, flights: Flights) -> None:
        self._ports = ports
        self._flights = flights

    def method(self) -> Any:
        """The gRPC method."""

        async def run(requests: AsyncIterator[bytes], context: Any) -> None:
            call, flights = Call(context), self._flights
            try:
                with flights:
                    if not await _Stream(self._ports, call).run(requests, flights.stopping):
                        # What it asked is answered; what more it would ask it may ask elsewhere.
                        raise stopping()
            except Transient as error:
                await call.abort(error)

        return grpc.stream_stream_rpc_method_handler(run)


class _Stream:
    def __init__(self, ports: GrpcPorts, call: Call) -> None:
        self._ports = ports
        self._call = call
        self._room = asyncio.Semaphore(IN_FLIGHT)
        self._writing = asyncio.Lock()

    async def run(self, requests: AsyncIterator[bytes], end: asyncio.Event) -> bool:
        """Answer until the client has no more requests, or `end` is set; whether the client was done."""
        self._call.answered()
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        turn.set_result(None)
        stop = asyncio.ensure_future(end.wait())
        try:
            async with asyncio.TaskGroup() as group:
                while (data := await _next(requests, stop)) is not None:
                    await self._room.acquire()
                    mine: asyncio.Future[None] = loop.create_future()
                    group.create_task(self._one(data, turn, mine))
                    turn = mine
                # Asked now: what is still being answered may take longer than the server has.
                return not stop.done()
        finally:
            stop.cancel()

    async def _one(self, data: bytes, before: asyncio.Future[None], mine: asyncio.Future[None]) -> None:
        """Answer one request; `before` is done once the whole answers before it are out, and then `mine`."""
        in_order = True
        try:
            wanted = await asked(data, self._call, self._ports)
            in_order = wanted.model.task is not TaskKind.TEXT_GENERATION or wanted.request.count != 1
            if in_order:
                response = await self._ports.answer.answer(wanted.request)
                await before
                await self._answer(response, wanted, final=True)
            else:
                before.add_done_callback(lambda _: _done(mine))
                await self._pieces(wanted)
        except Exception as error:
            told(error, self._call, self._ports.log)
            if in_order:
                await before
            await self._write(_failed(error, data))
        finally:
            if in_order:
                _done(mine)
            self._room.release()

    async def _pieces(self, wanted: Asked) -> None:
        pieces = self._ports.answer.stream(wanted.request)
        try:
            async for piece in pieces:
                result = piece.results[0]
                await self._answer(piece, wanted, final=isinstance(result, Text) and result.finish is not None)
        finally:
            # A stream that ends early leaves the loop early: closing tells the engine that nobody waits any more.
            if isinstance(pieces, AsyncGenerator):
                await pieces.aclose()

    async def _answer(self, response: Response, wanted: Asked, *, final: bool) -> None:
        message = message_of(response, wanted)
        put_parameters(message, {FINAL: final})
        await self._write(INFERENCE["ModelStreamInferResponse"](infer_response=message))

    async def _write(self, message: Message) -> None:
        async with self._writing:
            await self._call.context.write(message.SerializeToString())


def _failed(error: BaseException, data: bytes) -> Message:
    """The error as a message; what no text can say stands in the parameters of an answer without outputs."""
    failure = failure_of(error)
    answer = INFERENCE["ModelInferResponse"]()
    with contextlib.suppress(Refused):
        request = parsed(INFERENCE["ModelInferRequest"], data)
        answer.model_name, answer.model_version, answer.id = request.model_name, request.model_version, request.id
    facts: dict[str, object] = {FINAL: True, "code": failure.code, "grpc_status": status_of(error).grpc}
    if failure.retry_after is not None:
        facts["retry_after_ms"] = round(failure.retry_after * 1000)
    put_parameters(answer, facts)
    return INFERENCE["ModelStreamInferResponse"](error_message=failure.detail, infer_response=answer)


async def _next(requests: AsyncIterator[bytes], stop: asyncio.Future[Any]) -> bytes | None:
    """The next request of a stream; None where there is none, or once `stop` is done."""
    coming: asyncio.Future[bytes | None] = asyncio.ensure_future(anext(requests, None))
    try:
        await asyncio.wait({stop, coming}, return_when=asyncio.FIRST_COMPLETED)
        return coming.result() if coming.done() else None
    finally:
        coming.cancel()


def _done(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_result(None)
