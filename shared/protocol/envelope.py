"""The envelope around every JSON message on MQTT: bytes <-> messages.

Invariants:

* an unknown *major* protocol version is refused before the body is looked at; a newer minor one is read;
* fields this version does not know, in the envelope or the body, survive `unseal` -> `seal` unchanged;
* size first: nothing longer than `MAX_BYTES` is parsed.
"""

from typing import TypeVar

import msgspec

from shared.protocol.errors import Refusal, Refused

PROTOCOL_MAJOR = 1
PROTOCOL = "1.0"
MAX_BYTES = 4 * 1024 * 1024

B = TypeVar("B")


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """One message. Times are Unix seconds of the sender's clock; `trace` is a W3C traceparent."""

    kind: str
    id: str
    sent_at: float
    body: msgspec.Raw
    v: str = PROTOCOL
    expires_at: float | None = None
    trace: str | None = None
    unknown: dict[str, msgspec.Raw] = {}

    def is_expired(self, now: float) -> bool:
        """Whether the sender no longer wants this acted on."""
        return self.expires_at is not None and now >= self.expires_at


_KNOWN = ("v", "kind", "id", "sent_at", "expires_at", "trace", "body")
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_encoder = msgspec.json.Encoder()


def seal(
    kind: str,
    body: object,
    *,
    id: str,
    now: float,
    expires_at: float | None = None,
    trace: str | None = None,
) -> bytes:
    """Bytes of a new message; `body` is anything msgspec encodes."""
    return encode(
        Envelope(
            kind=kind, id=id, sent_at=now, expires_at=expires_at, trace=trace, body=msgspec.Raw(_encoder.encode(body))
        )
    )


def encode(envelope: Envelope) -> bytes:
    """Bytes of an envelope, fields it does not know included."""
    out: dict[str, object] = {
        "v": envelope.v,
        "kind": envelope.kind,
        "id": envelope.id,
        "sent_at": envelope.sent_at,
        "body": envelope.body,
    }
    if envelope.expires_at is not None:
        out["expires_at"] = envelope.expires_at
    if envelope.trace is not None:
        out["trace"] = envelope.trace
    return _encoder.encode(out | envelope.unknown)


def unseal(data: bytes) -> Envelope:
    """The envelope in `data`.

    Raises:
        Refused: too large, not JSON, a field of the wrong type, or an unknown major version.

    """
    if len(data) > MAX_BYTES:
        raise Refused("message too large", kind=Refusal.TOO_LARGE, field="$", value=len(data), allowed=f"{MAX_BYTES} B")
    try:
        raw = _fields.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(f"not a JSON object: {error}", field="$") from error
    version = _field(raw, "v", str)
    if version.partition(".")[0] != str(PROTOCOL_MAJOR):
        raise Refused("unknown protocol version", field="v", value=version, allowed=f"{PROTOCOL_MAJOR}.x")
    if "body" not in raw:
        raise Refused("missing field", field="body")
    return Envelope(
        v=version,
        kind=_field(raw, "kind", str),
        id=_field(raw, "id", str),
        sent_at=_field(raw, "sent_at", float),
        expires_at=_field(raw, "expires_at", float) if "expires_at" in raw else None,
        trace=_field(raw, "trace", str) if "trace" in raw else None,
        body=msgspec.Raw(raw["body"]).copy(),
        unknown={name: value.copy() for name, value in raw.items() if name not in _KNOWN},
    )


def body_of(envelope: Envelope, kind: str, body: type[B]) -> B:
    """The body of a message of `kind`, decoded as `body`; fields it does not know are left in `envelope.body`.

    Raises:
        Refused: another kind, or a body that is not of this type, naming the path.

    """
    if envelope.kind != kind:
        raise Refused("unexpected kind of message", field="kind", value=envelope.kind, allowed=kind)
    return decoded(bytes(envelope.body), body, field="body")


def decoded(data: bytes, into: type[B], *, field: str = "$") -> B:
    """JSON `data` as `into`; msgspec's complaint becomes a `Refused` that names the path below `field`."""
    try:
        return msgspec.json.decode(data, type=into)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(str(error).partition(" - at ")[0], field=path_in(error, field)) from error


def path_in(error: Exception, field: str = "$") -> str:
    """The path msgspec names in its complaint (`$.models[0].name`), rooted at `field`."""
    _, _, path = str(error).partition(" - at `")
    return f"{field}{path.rstrip('`')[1:]}" if path else field


def _field(raw: dict[str, msgspec.Raw], name: str, of: type[B]) -> B:
    if name not in raw:
        raise Refused("missing field", field=name)
    return decoded(bytes(raw[name]), of, field=name)
