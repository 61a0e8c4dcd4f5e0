"""Why a request went where it went: a bounded ring of decisions, and `GET /v1/why/{request_id}`."""

from typing import Protocol

from aiohttp import web

from shared.io.web import json_response
from shared.protocol import names
from shared.protocol.why import Why
from shared.serving.stories import Stories

KEPT = 2048
PATH = "/v1/why/{request_id}"


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
