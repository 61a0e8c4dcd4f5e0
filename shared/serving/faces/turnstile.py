"""The turnstile: whoever would be turned away unread is told so before the request is even parsed.

The verdict and the answer are those of the routes (`context_of`, `error_response`); what differs is their price. Past saturation most
requests are refused, and on a small machine what that takes is taken from those that are answered.
"""

from collections.abc import Callable

import msgspec

from shared.io.clock import Clock
from shared.io.loop_lag import LATE_S, LoopLag
from shared.io.problems import error_bytes, shape_of
from shared.io.request_ids import id_for
from shared.io.web_knock import knock_of
from shared.protocol.errors import Overloaded, Refused, Transient
from shared.protocol.topics import Header
from shared.serving.faces.context import Early, context_in

_BODY_NAMES_MODEL = frozenset(
    ("/predict", "/batch_predict", "/v1/embeddings", "/v1/completions", "/v1/chat/completions")
)
_MODELS, _VERSIONS, _INFER = "/v2/models/", "/versions/", "/infer"
_FIELDS = (Header.REQUEST_ID, Header.DEADLINE_MS, Header.PRIVACY, Header.PRIORITY, Header.TRACEPARENT)


class Turnstile:
    """Asked about every piece that could be a request; loop's thread only."""

    def __init__(
        self,
        early: Early,
        *,
        crowded: Callable[[], bool],
        tenant: Callable[[], str],
        lag: LoopLag,
        clock: Clock,
    ) -> None:
        """`crowded`: whether `early` may turn anybody away now; asked about everything, so it costs nothing."""
        self._early = early
        self._crowded = crowded
        self._tenant = tenant
        self._lag = lag
        self._clock = clock

    def __call__(self, data: bytes) -> bytes | None:
        """What to answer to `data` at once, whole; nothing (no bytes) to what is let in, None to what it has not judged."""
        turn = self._lag.turn()
        if turn < LATE_S and not self._crowded():
            return None
        knock = knock_of(data, _FIELDS)
        meant = None if knock is None else _meant(knock.path)
        if knock is None or meant is None:
            return None
        model, version = meant
        known = id_for(knock.fields.get(Header.REQUEST_ID))
        now = self._clock.monotonic() - turn
        try:
            context = context_in(knock.fields, id=known, tenant=self._tenant(), version=version, now=now)
            self._early(msgspec.structs.replace(context, model=model, body_bytes=knock.size))
        except Refused:
            return None
        except (Overloaded, Transient) as error:
            return error_bytes(error, shape_of(knock.path), request_id=known)
        return b""


def _meant(path: str) -> tuple[str, str | None] | None:
    """Model and version an inference path names, the model empty where the body does; None for any other path."""
    if path in _BODY_NAMES_MODEL:
        return "", None
    if not (path.startswith(_MODELS) and path.endswith(_INFER)):
        return None
    model, versions, version = path[len(_MODELS) : -len(_INFER)].partition(_VERSIONS)
    if not model or "/" in model or "/" in version or bool(versions) != bool(version):
        return None
    return model, version or None
