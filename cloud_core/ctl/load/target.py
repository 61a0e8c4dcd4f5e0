"""What a load asks: the address, the requests it sends there, and one of them sent ahead so that refusals are not measured."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from urllib.parse import quote, unquote, urlsplit

import msgspec

from cloud_core.ctl.client import KINDS
from cloud_core.ctl.load.connection import Address, Connection, connect
from cloud_core.ctl.load.requests import Requests
from cloud_core.ctl.load.response import Response
from shared.protocol.errors import Corrupt, Refusal, Refused, Transient, Unavailable

ALLOWED = "http://host:port, https://host:port or unix:/path"


class Place(NamedTuple):
    """An address, the path its inference routes are under, and what its `Host` header says."""

    address: Address
    prefix: str
    host: str


class Said(msgspec.Struct):
    """What may explain a refusal: OIP's `error`, a problem's `detail`."""

    error: str = ""
    detail: str = ""


def place_of(url: str) -> Place:
    """Where `url` is.

    Raises:
        Refused: it is none of the forms allowed.

    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise Refused(f"not a URL ({error})", field="URL", value=url, allowed=ALLOWED) from error
    if parts.scheme == "unix" and parts.path:
        return Place(Address("", 0, socket=unquote(parts.path)), "", "localhost")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise Refused("not a URL", field="URL", value=url, allowed=ALLOWED)
    tls = parts.scheme == "https"
    chosen = port if port is not None else 443 if tls else 80
    return Place(Address(parts.hostname, chosen, tls), parts.path.rstrip("/"), parts.netloc.rpartition("@")[2])


def infer_path(model: str, version: str | None) -> str:
    """OIP's."""
    return "/v2/models/" + "/versions/".join(quote(part, safe="") for part in (model, version) if part) + "/infer"


def infer_bodies(texts: Sequence[str]) -> list[bytes]:
    """One text each, as OIP has it."""
    return [
        msgspec.json.encode({"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": [text]}]})
        for text in texts
    ]


def predict_bodies(model: str, texts: Sequence[str]) -> list[bytes]:
    """One text each, for `/predict`."""
    return [msgspec.json.encode({"model": model, "input_text": text}) for text in texts]


def requests_of(
    place: Place, path: str, bodies: Sequence[bytes], *, token: str | None, deadline_s: float | None
) -> Requests:
    """The requests of a load on `place`.

    Raises:
        Refused: the token cannot stand in a header.

    """
    headers: Mapping[str, str] = {"Host": place.host}
    if token is not None:
        if not (token and token.isascii() and token.isprintable() and " " not in token):
            raise Refused("not a bearer token", field="--token", allowed="printable ASCII without spaces")
        headers = {**headers, "Authorization": f"Bearer {token}"}
    return Requests(place.prefix + path, bodies, headers=headers, deadline_s=deadline_s)


async def ask_once(place: Place, requests: Requests, *, patience_s: float) -> None:
    """One request ahead of a step; one that is shed (429) is as good as answered.

    Raises:
        Refused: the server refuses the request; says as what.
        Transient: nobody is there, or it is not ready, or it does not answer in `patience_s`.
        Corrupt: what answers is no such server, or it failed.

    """
    ended: asyncio.Future[Response | None] = asyncio.get_running_loop().create_future()

    def end(_: Connection, response: Response | None) -> None:
        if not ended.done():
            ended.set_result(response)

    where = place.address.socket or place.host
    try:
        connection = await connect(place.address, end)
    except OSError as error:
        raise Transient(f"{where} is not reachable: {error or 'no answer'}", why=Unavailable.UNREACHABLE) from error
    try:
        connection.send(requests.next(), 0.0)
        response = await asyncio.wait_for(ended, patience_s)
    except TimeoutError as error:
        raise Transient(f"{where} does not answer in {patience_s:g} s", why=Unavailable.DEADLINE) from error
    finally:
        connection.close()
    if response is None:
        raise Corrupt(f"{where} ended the connection without an HTTP answer")
    if response.status not in (200, 429):
        raise _error(where, response)


def _error(where: str, response: Response) -> Refused | Transient | Corrupt:
    try:
        said = msgspec.json.decode(response.body, type=Said)
    except (msgspec.DecodeError, UnicodeDecodeError):
        said = Said()
    text = f"{where} answers {response.status}: {said.error or said.detail or 'no reason given'}"
    if response.status in (502, 503, 504):
        return Transient(text, why=Unavailable.NOT_READY)
    if 400 <= response.status < 500:
        return Refused(text, kind=KINDS.get(response.status, Refusal.MALFORMED))
    return Corrupt(text, code="failed")
