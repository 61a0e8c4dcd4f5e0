"""HTTP where it is there, else MQTT: for devices of which nobody said what they have."""

from collections.abc import Callable

from edge_agent.control.fetch import Keep, Source
from shared.io.clock import Clock
from shared.io.logs import Log
from shared.protocol.errors import Transient, Unavailable

GONE_S = 60.0
"""HTTP must have been away for so long: a control plane that restarts is away on MQTT too."""
AGAIN_S = 300.0
"""After so long HTTP is tried again."""


class EitherSource:
    """See `edge_agent.control.fetch.Source`."""

    def __init__(self, http: Source, mqtt: Source, *, connected: Callable[[], bool], clock: Clock, log: Log) -> None:
        """`connected` says whether there is a broker."""
        self._http = http
        self._mqtt = mqtt
        self._connected = connected
        self._clock = clock
        self._log = log
        self._gone_since: float | None = None
        self._http_again = 0.0

    @property
    def grain(self) -> int:
        """As `Source` says; of what is asked now."""
        return (self._mqtt if self._clock.monotonic() < self._http_again else self._http).grain

    async def get(self, path: str, keep: Keep, *, limit: int, begin: int = 0) -> None:
        """As `Source` says."""
        if self._clock.monotonic() >= self._http_again:
            came = False

            async def noted(piece: bytes) -> None:
                nonlocal came
                came = True
                await keep(piece)

            try:
                await self._http.get(path, noted, limit=limit, begin=begin)
            except Transient as error:
                answered = came or error.retry_after is not None or error.why is not Unavailable.UNREACHABLE
                if self._is_there(answered=answered) or not self._connected():
                    raise
                self._log.warning("the cloud is not reached over HTTP: going on over MQTT", error=error.message)
                self._http_again = self._clock.monotonic() + AGAIN_S
            else:
                self._gone_since = None
                return
        await self._mqtt.get(path, keep, limit=limit, begin=begin)

    def _is_there(self, *, answered: bool) -> bool:
        """Whether HTTP is, or went too recently to be given up."""
        now = self._clock.monotonic()
        if answered:
            self._gone_since = None
        elif self._gone_since is None:
            self._gone_since = now
        return self._gone_since is None or now - self._gone_since < GONE_S
