"""The only table from errors to HTTP and gRPC status.

gRPC codes are the numbers of https://grpc.github.io/grpc/core/md_doc_statuscodes.html, kept as integers so that
nothing here needs the grpc package.
"""

from typing import NamedTuple

from shared.protocol.errors import Corrupt, Overloaded, Refusal, Refused, TidelineError, Transient, Unavailable


class Status(NamedTuple):
    """`http`: RFC 9110 status; `grpc`: gRPC status code."""

    http: int
    grpc: int


REFUSALS: dict[Refusal, Status] = {
    Refusal.MALFORMED: Status(400, 3),
    Refusal.UNAUTHENTICATED: Status(401, 16),
    Refusal.FORBIDDEN: Status(403, 7),
    Refusal.NOT_FOUND: Status(404, 5),
    Refusal.METHOD: Status(405, 12),
    Refusal.CONFLICT: Status(409, 6),
    Refusal.PRECONDITION: Status(412, 9),
    Refusal.TOO_LARGE: Status(413, 3),
    Refusal.TOO_SLOW: Status(408, 4),
    Refusal.MEDIA_TYPE: Status(415, 3),
    Refusal.UNPROCESSABLE: Status(422, 3),
    Refusal.UNSUPPORTED: Status(501, 12),
}
UNAVAILABLE: dict[Unavailable, Status] = {
    Unavailable.NOT_READY: Status(503, 14),
    Unavailable.UNREACHABLE: Status(503, 14),
    Unavailable.DEADLINE: Status(504, 4),
    Unavailable.CANCELLED: Status(499, 1),
    Unavailable.STORAGE: Status(507, 8),
}
OVERLOADED = Status(429, 8)
CORRUPT = Status(500, 15)
BUG = Status(500, 13)


def status_of(error: BaseException) -> Status:
    """Status for any error; one that is not in the taxonomy is a bug and says so."""
    match error:
        case Refused():
            return REFUSALS[error.kind]
        case Overloaded():
            return OVERLOADED
        case Transient():
            return UNAVAILABLE[error.why]
        case Corrupt():
            return CORRUPT
        case _:
            return BUG


def retry_after_of(error: TidelineError) -> float | None:
    """Seconds the caller should wait, where the error knows."""
    match error:
        case Overloaded() | Transient():
            return error.retry_after
        case _:
            return None
