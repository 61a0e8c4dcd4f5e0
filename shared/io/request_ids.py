"""The id of a request: the caller's own where it is well formed, else a new UUID. Logs of the request carry it."""

import random

import structlog
from aiohttp import web

from shared.protocol import names

_VARIANT = {f"{n:x}": f"{8 | n & 3:x}" for n in range(16)}
REQUEST_ID = web.RequestKey("request_id", str)
"""Where an HTTP request carries it."""


def id_for(given: str | None) -> str:
    """The id of a request that says `given`.

    A new one is no secret, and does not ask the kernel for its randomness: that gives the interpreter's lock away, and on a busy
    server getting it back costs a thousand times the call.
    """
    if given is not None and names.REQUEST_ID.fullmatch(given):
        return given
    digits = f"{random.getrandbits(128):032x}"
    # Version 4 of RFC 9562, variant 10: what `uuid.UUID` makes of it, in a tenth of the steps.
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{_VARIANT[digits[16]]}{digits[17:20]}-{digits[20:]}"


def request_id_of(given: str | None) -> str:
    """The id of a request that says `given`, from here on in every log line of this task."""
    known = id_for(given)
    structlog.contextvars.bind_contextvars(request_id=known)
    return known
