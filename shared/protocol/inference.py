"""Inference over MQTT (contract, section 5): what requests and responses say in and beside the envelope.

A request's envelope has its `client`, whose response topic the answer goes to, and may have the fields that HTTP takes as headers,
in lower case. Its `id` comes back as the response's `correlation_id`. Its body is Open Inference Protocol's (with `inputs`), or plain.
A response's envelope has `status`, an HTTP status, and the fields HTTP gives as headers; its body is what HTTP's would be.
"""

from collections.abc import Mapping

import msgspec

from shared.protocol import names
from shared.protocol.envelope import Envelope, decoded
from shared.protocol.errors import Refused
from shared.protocol.topics import Header

REQUEST, RESPONSE = "infer-request", "infer-response"
CLIENT, CORRELATION, STATUS = "client", "correlation_id", "status"
FIELDS = frozenset(
    name.lower()
    for name in (Header.REQUEST_ID, Header.DEADLINE_MS, Header.PRIORITY, Header.PRIVACY, Header.TRACEPARENT)
)
"""What a request may say beside its body."""


class Plain(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A plain body: one text or several, under the names `/predict` and `/batch_predict` know."""

    text: str | None = None
    input_text: str | None = None
    texts: list[str] | None = None
    input_texts: list[str] | None = None
    version: str | None = None
    parameters: dict[str, object] = {}

    @property
    def one(self) -> str | None:
        """The text of a body that brings one."""
        return self.input_text if self.input_text is not None else self.text

    @property
    def many(self) -> list[str] | None:
        """The texts of a body that brings a list."""
        return self.input_texts if self.input_texts is not None else self.texts


def client_of(envelope: Envelope) -> str:
    """Who gets the answer.

    Raises:
        Refused: it is missing, or could not be a level of a topic.

    """
    raw = envelope.unknown.get(CLIENT)
    if raw is None:
        raise Refused("missing field", field=CLIENT, allowed=names.ALLOWED["client"])
    return names.checked("client", decoded(bytes(raw), str, field=CLIENT), field=CLIENT)


def fields_of(envelope: Envelope) -> Mapping[str, str]:
    """The fields of `FIELDS` the envelope has, whatever their case: a privacy tag is never overlooked for how it is written.

    Raises:
        Refused: one is neither a text nor a number.

    """
    found = {} if envelope.trace is None else {Header.TRACEPARENT.lower(): envelope.trace}
    for name, raw in envelope.unknown.items():
        if name.lower() in FIELDS:
            found[name.lower()] = str(decoded(bytes(raw), str | int | float, field=name))  # type: ignore[arg-type]
    return found
