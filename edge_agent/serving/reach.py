"""What the cloud serves, as this device's callers see it: models that are not here may still be asked for.

The gateway is asked in the background, never while a request waits; what it said last stands while it cannot be reached.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar
from urllib.parse import quote

import aiohttp
import msgspec

from edge_agent.bounded import read_all
from edge_agent.serving.forward import CONNECT_S, Gateway
from shared.bundle.manifest import TaskKind, TensorSpec
from shared.io.logs import Log
from shared.protocol.errors import TidelineError, Transient, Unavailable
from shared.protocol.reported import ModelState
from shared.serving.catalog import Listed, order_of

EVERY_S = 30.0
TIMEOUT_S = 10.0
MOST = 256
"""Versions that are listed; a gateway that tells more is believed that far."""
MAX_ANSWER = 4 * 1024 * 1024
REASON = "in the cloud"
T = TypeVar("T")


class _Entry(msgspec.Struct):
    name: str
    version: str
    state: str = ""


class _Parameters(msgspec.Struct):
    task: TaskKind
    variant: str = ""
    digest: str = ""
    batch_invariant: bool = True


class _Metadata(msgspec.Struct):
    parameters: _Parameters
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()


class _Key(NamedTuple):
    name: str
    version: str


class Reach:
    """Owner of the list."""

    def __init__(self, http: aiohttp.ClientSession, *, log: Log, draw: Callable[[], float]) -> None:
        self._http = http
        self._log = log
        self._draw = draw
        self._known: dict[_Key, Listed] = {}

    def beside(self, local: Sequence[Listed]) -> Sequence[Listed]:
        """What is here, and then what only the cloud has; the newest version there stands for a name that is not here."""
        if not self._known:
            return local
        here = {_Key(model.name, model.version) for model in local}
        names = {model.name for model in local}
        newest: dict[str, str] = {}
        for key in self._known:
            newest[key.name] = max(newest.get(key.name, key.version), key.version, key=order_of)
        return [
            *local,
            *(
                msgspec.structs.replace(model, active=key.name not in names and newest[key.name] == key.version)
                for key, model in self._known.items()
                if key not in here
            ),
        ]

    async def refresh_forever(self, gateway: Gateway, tenant: str) -> None:
        """Ask now and then, at times that a fleet does not share."""
        while True:
            try:
                await self.refresh(gateway, tenant)
            except TidelineError as error:
                self._log.debug("the cloud's models are not known", error=error.message)
            await asyncio.sleep(EVERY_S * (0.5 + self._draw()))

    async def refresh(self, gateway: Gateway, tenant: str) -> None:
        """Ask the gateway what it serves.

        Raises:
            Transient: it cannot be asked, or does not answer as a gateway does.

        """
        index = await self._ask(gateway, "POST", "/v2/repository/index", list[_Entry], body=b'{"ready": true}')
        found: dict[_Key, Listed] = {}
        for entry in index[:MOST]:
            key = _Key(entry.name, entry.version)
            found[key] = self._known.get(key) or await self._described(gateway, tenant, key)
        self._known = found

    async def _described(self, gateway: Gateway, tenant: str, key: _Key) -> Listed:
        path = f"/v2/models/{quote(key.name, safe='')}/versions/{quote(key.version, safe='')}"
        told = await self._ask(gateway, "GET", path, _Metadata)
        return Listed(
            tenant=tenant,
            name=key.name,
            version=key.version,
            task=told.parameters.task,
            state=ModelState.READY,
            variant=told.parameters.variant,
            digest=told.parameters.digest,
            reason=REASON,
            inputs=told.inputs,
            outputs=told.outputs,
            batch_invariant=told.parameters.batch_invariant,
        )

    async def _ask(self, gateway: Gateway, method: str, path: str, into: type[T], *, body: bytes | None = None) -> T:
        url, token = gateway.url.rstrip("/") + path, await gateway.tokens.token()
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S, sock_connect=CONNECT_S)
        try:
            async with self._http.request(
                method, url, data=body, headers=headers, timeout=timeout, allow_redirects=False
            ) as answer:
                data, status = await read_all(answer, MAX_ANSWER), answer.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Transient(f"{url}: {type(error).__name__}", why=Unavailable.UNREACHABLE) from error
        if status == 401:
            gateway.tokens.forget(token)
        if status != 200:
            raise Transient(f"{url} answered {status}", why=Unavailable.UNREACHABLE)
        try:
            return msgspec.json.decode(data, type=into)
        except msgspec.DecodeError as error:
            raise Transient(f"{url} is no gateway: {error}", why=Unavailable.UNREACHABLE) from error
