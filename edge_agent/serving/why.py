"""Why a request went where it went: a bounded ring of decisions, and `GET /v1/why/{request_id}`."""

from typing import Protocol

import msgspec
from aiohttp import web

from shared.io.web import json_response
from shared.protocol import names
from shared.serving.stories import Stories

KEPT = 2048
PATH = "/v1/why/{request_id}"


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """What was known when it was decided; milliseconds. None: the device does not serve the model, nothing was measured."""

    local_wait_ms: float | None
    local_compute_ms: float | None
    cloud_ms: float | None
    cloud_permitted: bool
    cloud_announced_wait_ms: float
    cloud_budget_left: int | None
    breaker: str
    policy_age_s: float


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One place that was asked, why, and what came of it; `after_ms` is when it was asked, from the request's beginning.

    `by` is `name@version/variant` of an answer, `confidence` how sure it is of itself; None where it cannot tell.
    """

    where: str
    reason: str
    outcome: str
    ms: float
    after_ms: float = 0.0
    by: str | None = None
    confidence: float | None = None
    error: str | None = None


class Why(msgspec.Struct, frozen=True, kw_only=True):
    """One request's whole story. `at` is Unix seconds; `generation` the signed pair (epoch, number) in force.

    `answered_by` is `name@version/variant`, as in `X-Tideline-Model`; None where nobody answered. `compared`: whether the
    device's and the cloud's answer say the same, in a cascade that asked both: `agree (same)`, `differ (label)`. The answers themselves
    are not kept: stories outlive what was asked.
    """

    request_id: str
    at: float
    model: str
    version: str | None
    mode: str
    private: bool
    deadline_ms: float
    generation: tuple[int, int] | None
    policy_name: str | None
    policy_revision: int | None
    decision: str
    reason: str
    predicted: Prediction
    attempts: tuple[Attempt, ...]
    where: str | None
    outcome: str
    answered_by: str | None = None
    compared: str | None = None


class Told(Protocol):
    """Something that ended and can be told of."""

    def story(self) -> Why:
        """All of it."""
        ...


class WhyRing:
    """The newest decisions by request id; one id that comes again replaces its older story.

    Told when somebody asks: nearly nobody does, and writing a story takes longer than a decision.
    """

    def __init__(self, kept: int = KEPT) -> None:
        self._stories: Stories[str, Told] = Stories(kept)

    def add(self, request_id: str, told: Told) -> None:
        """Remember one story; the oldest goes."""
        self._stories.remember(request_id, told)

    def get(self, request_id: str) -> Why | None:
        """The story of a request, while it is kept."""
        told = self._stories.get(request_id)
        return None if told is None else told.story()

    def find(self, request_id: str) -> Why:
        """The story of a request.

        Raises:
            Refused: not known, or not any more.

        """
        return self._stories.find(request_id, request_id).story()


def add_routes(app: web.Application, ring: WhyRing) -> None:
    """Serve the ring."""

    async def why(request: web.Request) -> web.Response:
        request_id = names.checked("request id", request.match_info["request_id"], field="request_id")
        return json_response(ring.find(request_id))

    app.router.add_get(PATH, why)
