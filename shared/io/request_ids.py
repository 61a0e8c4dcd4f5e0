"""The id of a request: the caller's own where it is well formed, else a new UUID. Logs of the request carry it."""

import uuid

import structlog

from shared.protocol import names


def request_id_of(given: str | None) -> str:
    """The id of a request that says `given`, from here on in every log line of this task."""
    known = given if given is not None and names.REQUEST_ID.fullmatch(given) else str(uuid.uuid4())
    structlog.contextvars.bind_contextvars(request_id=known)
    return known
