"""The gRPC server of a process: one port, bounded messages, and an end in order."""

import asyncio
import errno
import socket

import grpc

from shared.protocol.errors import Refusal, Refused
from shared.serving.faces import grpc as face
from shared.serving.faces import grpc_health
from shared.serving.faces.context import GrpcPorts
from shared.serving.faces.grpc_flights import Flights

_IDLE_MS = 60_000
"""After how much silence a client is asked whether it still lives: one that vanished must not hold its stream for ever."""
_PING_MS = 5_000
"""How often a client may ask us the same."""
_HANDSHAKE_MS = 10_000
"""How long a connection may take to begin to speak HTTP/2."""
_STREAMS = 1024
"""Calls of one connection at once; its client holds the others back."""
_FLUSH_S = 1.0
"""How long the last answers have to get out when the server is closed."""


class GrpcServer:
    """Stops as `shared.io.web.Site` does: `stop_accepting`, `drain`, `close`."""

    def __init__(self, ports: GrpcPorts) -> None:
        self._flights = Flights()
        self._server = grpc.aio.server(
            options=(
                ("grpc.max_receive_message_length", ports.max_body),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_allowed_incoming_connections", ports.connections),
                ("grpc.max_concurrent_streams", _STREAMS),
                ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),
                # Or a second server would get half the connections of the first instead of an error.
                ("grpc.so_reuseport", 0),
                ("grpc.keepalive_time_ms", _IDLE_MS),
                ("grpc.http2.min_ping_interval_without_data_ms", _PING_MS),
                ("grpc.keepalive_permit_without_calls", 1),
            )
        )
        self._server.add_generic_rpc_handlers(
            (
                face.service(ports, self._flights),
                grpc_health.service(
                    ports.readiness, (face.SERVICE,), self._flights.stopping, ports.log, ports.message_s
                ),
            )
        )

    async def start(self, *, host: str, port: int) -> int:
        """Listen; returns the port, which differs from `port` only when that is 0.

        Raises:
            Refused: the port cannot be had.

        """
        try:
            _probe(host, port)
            bound = int(self._server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}"))
        except (OSError, RuntimeError) as error:
            taken = isinstance(error, RuntimeError) or error.errno == errno.EADDRINUSE
            raise Refused(
                f"cannot listen: {'in use' if taken else str(error)}",
                kind=Refusal.CONFLICT,
                field="grpc_port",
                value=f"{host}:{port}",
                allowed="a free port",
            ) from error
        await self._server.start()
        return bound

    async def stop_accepting(self) -> None:
        """Refuse new calls, and new requests on streams; who watches its health is told."""
        self._flights.stopping.set()

    async def drain(self, timeout: float) -> bool:  # noqa: ASYNC109 - the brief of a shutdown, not of a call
        """Wait until no call is in flight, `timeout` seconds at most; whether none is."""
        try:
            await asyncio.wait_for(self._flights.idle(), timeout)
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """Stop listening, end the remaining calls and free everything; harmless when called twice."""
        self._flights.stopping.set()
        await self._server.stop(_FLUSH_S)


def _probe(host: str, port: int) -> None:
    # gRPC says only that it could not, and says it on standard error as well.
    if port:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
