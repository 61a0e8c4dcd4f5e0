"""The one error taxonomy, by who must act.

* `Refused`: the caller must change the request. It names the field, the value and what is allowed.
* `Overloaded`: the caller must come back later; it says when.
* `Transient`: we must try again; the caller may too.
* `Corrupt`: a human must look; trying again cannot help.

Anything else that is raised is a bug: it ends the named task it happened in, and with it the process.
"""

from enum import StrEnum


class Refusal(StrEnum):
    """What kind of refusal this is; `shared.protocol.status` maps each kind to HTTP and gRPC."""

    MALFORMED = "malformed"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not-found"
    METHOD = "method-not-allowed"
    CONFLICT = "conflict"
    PRECONDITION = "precondition-failed"
    TOO_LARGE = "too-large"
    TOO_SLOW = "too-slow"
    MEDIA_TYPE = "unsupported-media-type"
    UNPROCESSABLE = "unprocessable"
    UNSUPPORTED = "unsupported"


class Unavailable(StrEnum):
    """Why something cannot be done right now."""

    NOT_READY = "not-ready"
    UNREACHABLE = "unreachable"
    DEADLINE = "deadline-missed"
    CANCELLED = "cancelled"
    STORAGE = "storage"


class TidelineError(Exception):
    """Root of the four classes; carries a stable `code` for machines and a message for people."""

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.message = message
        self.code = code


class Refused(TidelineError):
    """The caller must change the request.

    `field` is a path such as `inputs[0].datatype`, `value` what was sent (shortened), `allowed` what would be accepted.
    """

    def __init__(
        self,
        message: str,
        *,
        kind: Refusal = Refusal.MALFORMED,
        field: str | None = None,
        value: object = None,
        allowed: str | None = None,
        code: str | None = None,
    ) -> None:
        parts = [message]
        if field is not None:
            parts.append(f"field {field}")
        if value is not None:
            parts.append(f"got {shortened(value)}")
        if allowed is not None:
            parts.append(f"allowed: {allowed}")
        super().__init__("; ".join(parts), code=code or kind.value)
        self.kind = kind
        self.field = field
        self.value = value
        self.allowed = allowed

    def renamed(self, field: str) -> "Refused":
        """The same refusal, of `field`."""
        message = self.message.partition("; field ")[0]
        return Refused(message, kind=self.kind, field=field, value=self.value, allowed=self.allowed, code=self.code)


class Overloaded(TidelineError):
    """The caller must come back after `retry_after` seconds."""

    def __init__(self, message: str, *, retry_after: float, code: str = "overloaded") -> None:
        super().__init__(message, code=code)
        self.retry_after = retry_after


class Transient(TidelineError):
    """It failed for now; the same call may succeed later."""

    def __init__(self, message: str, *, why: Unavailable, retry_after: float | None = None) -> None:
        super().__init__(message, code=why.value)
        self.why = why
        self.retry_after = retry_after


class Corrupt(TidelineError):
    """Bytes or state that must not be used and that no retry mends."""

    def __init__(self, message: str, *, code: str = "corrupt") -> None:
        super().__init__(message, code=code)


def shortened(value: object, limit: int = 80) -> str:
    """`repr(value)` cut to `limit` characters, so that a refusal never echoes a whole body."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
