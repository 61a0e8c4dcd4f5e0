"""gRPC beside a process's HTTP: on which port, or why there is none.

The packages it needs are an extra (`tideline[grpc]`). A server without them answers over HTTP alone, and says so once in its
log and, for as long as it runs, in `/health`; so does one whose gRPC port nobody asked for by number, where that port is taken.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from shared.protocol.errors import Refused
from shared.serving.faces.context import GrpcPorts

if TYPE_CHECKING:
    from shared.serving.faces.grpc_server import GrpcServer

OFF = -1
"""The setting that means: no gRPC."""


def port_for(asked: int | None, http: int) -> int:
    """The port to listen on: the one after HTTP's where none was asked for; 0 is any free one, `OFF` none."""
    if asked is not None:
        return asked
    return http + 1 if 0 < http < 65535 else 0


class GrpcSite:
    """Starts, tells and stops the gRPC server, where there is one."""

    def __init__(self) -> None:
        self._server: GrpcServer | None = None
        self._told: dict[str, object] = {"off": "not started"}

    @property
    def port(self) -> int | None:
        """Where it listens; None where it does not."""
        port = self._told.get("port")
        return port if isinstance(port, int) else None

    def details(self) -> Mapping[str, object]:
        """What `/health` tells."""
        return {"grpc": self._told}

    async def start(self, ports: GrpcPorts, *, host: str, asked: int | None, http: int) -> None:
        """Listen where `asked`, or beside the HTTP port that was asked for.

        Raises:
            Refused: the port that was asked for cannot be had.

        """
        wanted = port_for(asked, http)
        if wanted == OFF:
            self._told = {"off": "switched off"}
            return
        try:
            # Only here: the packages are an extra, and take their time and memory to load.
            from shared.serving.faces.grpc_server import GrpcServer  # noqa: PLC0415
        except ImportError as error:
            self._without(ports, f"tideline[grpc] is not installed: {error}")
            return
        server = GrpcServer(ports)
        try:
            self._told = {"port": await server.start(host=host, port=wanted)}
        except Refused as refused:
            if asked is not None:
                raise
            self._without(ports, refused.message)
            return
        self._server = server

    async def stop_accepting(self) -> None:
        """Take no new call."""
        if self._server is not None:
            await self._server.stop_accepting()

    async def drain(self, timeout: float) -> bool:  # noqa: ASYNC109 - the brief of a shutdown, not of a call
        """Wait until no call is in flight, `timeout` seconds at most; whether none is."""
        return self._server is None or await self._server.drain(timeout)

    async def close(self) -> None:
        """End the remaining calls; harmless when called twice."""
        if self._server is not None:
            await self._server.close()

    def _without(self, ports: GrpcPorts, why: str) -> None:
        self._told = {"off": why}
        ports.log.warning("no gRPC", why=why)
