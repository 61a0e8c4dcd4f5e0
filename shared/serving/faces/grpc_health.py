"""`grpc.health.v1.Health`, which orchestrators and load balancers probe: the whole server, one service, liveness, readiness."""

import asyncio
import contextlib
from functools import partial
from typing import Any

import grpc

from shared.io.logs import Log
from shared.protocol.errors import Refusal, Refused
from shared.serving.faces.grpc_call import Call, parsed, unary
from shared.serving.faces.grpc_messages import HEALTH
from shared.serving.faces.grpc_wire import Message
from shared.serving.faces.readiness import Readiness

SERVICE = "grpc.health.v1.Health"
WATCH_S = 1.0
"""How often a watched service is looked at."""
_LIVENESS = "liveness"


def service(
    readiness: Readiness, services: tuple[str, ...], stopping: asyncio.Event, log: Log, message_s: float
) -> Any:
    """The service, for a server that has `services`; none of them serves once `stopping` is set."""
    known = ("", _LIVENESS, "readiness", *services)

    def status(name: str) -> str:
        if name not in known:
            return "SERVICE_UNKNOWN"
        serves = not stopping.is_set() and (name == _LIVENESS or readiness.verdict().ready)
        return "SERVING" if serves else "NOT_SERVING"

    async def check(message: Message, call: Call) -> Message:
        call.answered()
        if message.service not in known:
            allowed = ", ".join(filter(None, known))
            raise Refused(
                "unknown service", kind=Refusal.NOT_FOUND, field="service", value=message.service, allowed=allowed
            )
        return HEALTH["HealthCheckResponse"](status=status(message.service))

    async def watch(data: bytes, context: Any) -> None:
        call = Call(context)
        try:
            name = parsed(HEALTH["HealthCheckRequest"], data).service
        except Refused as error:
            await call.abort(error)
            return
        said = ""
        while not stopping.is_set() or said != status(name):
            if said != (now := status(name)):
                said = now
                await context.write(HEALTH["HealthCheckResponse"](status=now).SerializeToString())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(WATCH_S):
                    await stopping.wait()

    methods = {
        "Check": unary(partial(parsed, HEALTH["HealthCheckRequest"]), check, log, contextlib.nullcontext(), message_s),
        "Watch": grpc.unary_stream_rpc_method_handler(watch),
    }
    return grpc.method_handlers_generic_handler(SERVICE, methods)
