"""What a route of the API is: its method and path, who may use it, what it takes and gives. `dispatch` does the rest."""

from collections.abc import Awaitable, Callable, Mapping
from enum import StrEnum
from typing import Any, Generic, TypeVar

import msgspec
from aiohttp import hdrs, web
from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine

from cloud_core.api.access_tokens import AccessTokens
from cloud_core.api.auth import Authenticator
from cloud_core.api.feed import Feed
from cloud_core.api.passwords import Passwords
from cloud_core.api.watchers import Watchers
from cloud_core.config import Settings
from cloud_core.decide.access import Principal, Resource, Verb
from cloud_core.keys import Keys
from cloud_core.models.trial import Gate
from cloud_core.store.chunk_stores import open_chunks
from cloud_core.store.database import Connection
from cloud_core.trust.repository import Repository
from shared.bundle.store import ChunkStore
from shared.io.clock import Clock
from shared.io.logs import Log
from shared.protocol.errors import Refusal, Refused

T = TypeVar("T")
MAX_PAGE = 1000
REMEMBER_S = 5.0
"""How long a verdict about a caller stands where it asks thousands of times: for chunks, which each are a request."""


class Scope(StrEnum):
    """What a handler runs in: a snapshot, one write transaction (audited, repeatable by key), or neither."""

    READ = "read"
    WRITE = "write"
    NONE = "none"


class Needs(msgspec.Struct, frozen=True):
    """The permission a route asks for."""

    verb: Verb
    resource: Resource


class Open(msgspec.Struct, frozen=True):
    """A route anybody may call, and why that is right."""

    because: str


class Page(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """One page of a list; `next` is the cursor of the one behind it, null at the end."""

    items: tuple[T, ...]
    next: str | None = None


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What a handler answers. `revision` becomes the ETag, `name` is what the audit calls the thing."""

    value: Any = None
    status: int = 200
    revision: int | str | None = None
    location: str | None = None
    name: str | None = None
    detail: Mapping[str, object] = {}


class Api:
    """What handlers work with; built once by `application`."""

    def __init__(
        self,
        *,
        settings: Settings,
        engine: AsyncEngine,
        keys: Keys,
        log: Log,
        registry: CollectorRegistry,
        clock: Clock,
        gate: Gate,
    ) -> None:
        """`gate` decides which versions may exist."""
        self.settings = settings
        self.engine = engine
        self.keys = keys
        self.log = log
        self.registry = registry
        self.clock = clock
        self.gate = gate
        self.trust = Repository(settings.trust_keys, keys.generation)
        self.access = AccessTokens(keys.access)
        self.authenticator = Authenticator(engine, self.access, clock)
        self.remembering = Authenticator(engine, self.access, clock, remember_s=REMEMBER_S)
        self.passwords = Passwords()
        self.feed = Feed(engine, log)
        self.watchers = Watchers(engine, lost_after=settings.lost_after_s, clock=clock)
        self.artifacts = open_chunks(settings.chunk_store, settings.artifacts)
        """The chunks of one tenant."""

    def import_sources(self, tenant: str) -> ChunkStore:
        """What one tenant uploaded to be imported; no device ever reads it."""
        return ChunkStore(self.settings.import_chunks(tenant))


class Call:
    """One request on its way through a handler."""

    def __init__(self, api: Api, request: web.Request, *, principal: Principal | None, body: Any, now: float) -> None:
        self.api = api
        self.request = request
        self.body = body
        self.now = now
        self.prepared: Any = None
        self._principal = principal
        self._connection: Connection | None = None

    @property
    def principal(self) -> Principal:
        """Who calls; a bug where the route is open."""
        if self._principal is None:
            raise RuntimeError("an open route has no principal")
        return self._principal

    @property
    def tenant(self) -> str:
        """The caller's tenant: all it ever sees."""
        return self.principal.tenant

    @property
    def connection(self) -> Connection:
        """The transaction; a bug where the route's scope has none."""
        if self._connection is None:
            raise RuntimeError("this route has no transaction")
        return self._connection

    def enter(self, connection: Connection) -> "Call":
        """The same call, inside a transaction."""
        self._connection = connection
        return self

    def segment(self, name: str) -> str:
        """A part of the path."""
        return self.request.match_info[name]

    def match(self, revision: int | str | None) -> None:
        """Hold `If-Match` and `If-None-Match: *` against what is there (`revision`; None for nothing).

        Raises:
            Refused: 412, the thing is not the one the caller saw.

        """
        wanted = self.request.headers.get(hdrs.IF_MATCH)
        tags = {tag.strip() for tag in wanted.split(",")} if wanted is not None else None
        if tags is not None and (revision is None or not tags & {"*", etag(revision)}):
            allowed = "nothing is there" if revision is None else etag(revision)
            raise Refused(
                "it is not what you saw", kind=Refusal.PRECONDITION, field="If-Match", value=wanted, allowed=allowed
            )
        if self.request.headers.get(hdrs.IF_NONE_MATCH, "").strip() == "*" and revision is not None:
            raise Refused("it is there already", kind=Refusal.PRECONDITION, field="If-None-Match", value="*")


Handler = Callable[[Call], Awaitable[Reply | web.StreamResponse]]
Prepare = Callable[[Call], Awaitable[Any]]


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the route table. `body` bytes hands the raw body over; None takes none.

    `before` runs ahead of the transaction, for slow work that must not hold it; its result is `call.prepared`. `remembers`: who the
    caller is may be what it was `REMEMBER_S` ago.
    """

    method: str
    path: str
    access: Needs | Open
    scope: Scope
    run: Handler
    summary: str
    answer: Any = None
    body: Any = None
    max_body: int = 1 << 20
    media: tuple[str, ...] = ("application/json",)
    query: tuple[str, ...] = ()
    status: int = 200
    before: Prepare | None = None
    remembers: bool = False


def etag(revision: int | str) -> str:
    """The strong entity tag of a revision."""
    return f'"{revision}"'


def absent(what: str, name: str) -> Refused:
    """404: there is none of that name in the caller's tenant, whatever other tenants have."""
    return Refused(f"no such {what}", kind=Refusal.NOT_FOUND, field=what, value=name)


def conflict(message: str, *, field: str, value: object = None, code: str = "conflict") -> Refused:
    """409."""
    return Refused(message, kind=Refusal.CONFLICT, field=field, value=value, code=code)


def document(text: str | None) -> msgspec.Raw | None:
    """A JSON column as it stands, inside an answer."""
    return None if text is None else msgspec.Raw(text.encode())
