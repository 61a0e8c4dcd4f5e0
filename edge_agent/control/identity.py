"""Who this device is: its own key and what enrolment pinned, in `identity.json` (mode 0600), and bearer tokens proved by the key.

Invariants: the key is durable before it is shown to anybody, so that an enrolment whose answer was lost can be asked for again
with the same key; a token is asked for again before it ends, and once more when somebody refuses it.
"""

import asyncio
import base64
from pathlib import Path

import aiohttp
import msgspec

from edge_agent.bounded import read_all
from shared.io.clock import Clock
from shared.io.durable import write_durably
from shared.io.signing import Signer
from shared.protocol.enrolment import EnrolAnswer, TokenAnswer, TokenRequest
from shared.protocol.errors import Corrupt, Refusal, Refused, Transient, Unavailable
from shared.protocol.topics import Path as Paths

FILE = "identity.json"
MAX_ANSWER = 1_000_000
TIMEOUT_S = 10.0
EARLY = 0.2
"""A token is renewed when this share of its life is left, at least `EARLY_S` seconds."""
EARLY_S = 30.0


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """`seed` is base64 of the 32 private bytes of the device's Ed25519 key; `enrolment` None until the cloud knows it.

    `root_pinned_at`: when the TUF root was pinned, where it did not come with the enrolment.
    """

    seed: str
    enrolment: EnrolAnswer | None = None
    root_pinned_at: float | None = None

    @property
    def own(self) -> EnrolAnswer:
        """What enrolment pinned; only of an identity that is enrolled."""
        if self.enrolment is None:
            raise ValueError("not enrolled")
        return self.enrolment

    @property
    def signer(self) -> Signer:
        """The device's own key."""
        return Signer.from_bytes(base64.b64decode(self.seed))


def load_identity(state: Path) -> Identity | None:
    """What the state folder holds; None before the first enrolment.

    Raises:
        Corrupt: the file is there and is no identity.

    """
    path = state / FILE
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        identity = msgspec.json.decode(data, type=Identity)
        _ = identity.signer
    except (msgspec.DecodeError, ValueError) as error:
        raise Corrupt(f"{path} is no identity of a device: {error}; enrol again without it") from error
    return identity


def save_identity(state: Path, identity: Identity) -> None:
    """Replace the file, durably."""
    write_durably(state / FILE, msgspec.json.encode(identity), mode=0o600)


def new_identity(state: Path) -> Identity:
    """A fresh key, durable before it is returned."""
    identity = Identity(seed=base64.b64encode(Signer.generate().to_bytes()).decode())
    save_identity(state, identity)
    return identity


async def post(http: aiohttp.ClientSession, url: str, body: object) -> bytes:
    """The answer to a JSON request to the device API.

    Raises:
        Refused: the cloud says the request is wrong (4xx), in its own words.
        Transient: it cannot be reached, is busy or failing.

    """
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S, sock_connect=TIMEOUT_S / 2)
    headers = {"Content-Type": "application/json"}
    try:
        async with http.post(url, data=msgspec.json.encode(body), headers=headers, timeout=timeout) as answer:
            data = await read_all(answer, MAX_ANSWER)
            status = answer.status
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        raise Transient(f"{url} cannot be reached: {error}", why=Unavailable.UNREACHABLE) from error
    if status < 300:
        return data
    said = _detail(data)
    if status in (408, 425, 429) or status >= 500:
        raise Transient(f"{url} answered {status}: {said}", why=Unavailable.UNREACHABLE)
    kinds = {401: Refusal.UNAUTHENTICATED, 403: Refusal.FORBIDDEN, 404: Refusal.NOT_FOUND, 409: Refusal.CONFLICT}
    raise Refused(f"{url} refused: {said}", kind=kinds.get(status, Refusal.MALFORMED))


def _detail(data: bytes) -> str:
    try:
        problem = msgspec.json.decode(data)
    except msgspec.DecodeError:
        return data[:200].decode(errors="replace")
    return str(problem.get("detail", problem))[:500] if isinstance(problem, dict) else str(problem)[:200]


class AccessTokens:
    """Owner of the device's bearer token: asks for it with the device's key, keeps it while it is fresh."""

    def __init__(self, enrolment: EnrolAnswer, signer: Signer, *, http: aiohttp.ClientSession, clock: Clock) -> None:
        self._enrolment = enrolment
        self._signer = signer
        self._http = http
        self._clock = clock
        self._token: str | None = None
        self._renew_at = 0.0
        self._asking: asyncio.Task[str] | None = None

    async def token(self) -> str:
        """A token that is still good for a while.

        Raises:
            Refused: the cloud does not know this device, or no longer.
            Transient: the cloud cannot be asked now.

        """
        if self._token is not None and self._clock.monotonic() < self._renew_at:
            return self._token
        if self._asking is None or self._asking.done():
            # One request for all who wait, and none of them takes it down by leaving.
            self._asking = asyncio.create_task(self._ask(), name="access-token")
        return await asyncio.shield(self._asking)

    def forget(self, token: str) -> None:
        """Somebody refused `token`: the next call asks for another."""
        if self._token == token:
            self._token = None

    async def _ask(self) -> str:
        own, at = self._enrolment, int(self._clock.wall())
        signature = self._signer.sign(f"{own.tenant}/{own.device}/{at}".encode())
        request = TokenRequest(tenant=own.tenant, device=own.device, at=at, signature=signature)
        data = await post(self._http, own.api_url.rstrip("/") + Paths.TOKEN, request)
        try:
            answer = msgspec.json.decode(data, type=TokenAnswer)
        except msgspec.DecodeError as error:
            raise Transient(f"no token in the answer: {error}", why=Unavailable.UNREACHABLE) from error
        life = max(0.0, answer.expires_at - self._clock.wall())
        self._renew_at = self._clock.monotonic() + life - max(EARLY * life, min(EARLY_S, life / 2))
        self._token = answer.token
        return answer.token
