"""Enrolment: a one-time token in, everything the device pins out, durable before anybody relies on it."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import aiohttp
import msgspec

from edge_agent.control.identity import Identity, load_identity, new_identity, post, save_identity
from shared.io.durable import FolderLock
from shared.io.logs import Log
from shared.io.mqtt import backoff
from shared.protocol.enrolment import EnrolAnswer, EnrolRequest
from shared.protocol.errors import Refusal, Refused, Transient, Unavailable
from shared.protocol.reported import Hardware
from shared.protocol.topics import Path as Paths

RETRY_FIRST_S = 0.5
RETRY_MOST_S = 30.0


class Enrolment(msgspec.Struct, frozen=True, kw_only=True):
    """Where to enrol, with which one-time token, and as what."""

    url: str
    token: str
    hardware: Hardware
    agent_version: str


class How(NamedTuple):
    """How a device without an identity would get one: the control plane's URL and a one-time token, empty for none."""

    url: str
    token: str
    hardware: Hardware
    agent_version: str


def identity_or_how(state: Path, how: How) -> tuple[Identity | None, Enrolment | None]:
    """What the device of a state folder is, and how it is to be enrolled where it is not. Blocks.

    Raises:
        Refused: it is not, and nobody said where to get an identity.
        Corrupt: its identity cannot be read.

    """
    identity = load_identity(state)
    return identity, wanted_for(identity, **how._asdict())


async def enrol_alone(state: Path, how: How) -> EnrolAnswer:
    """Enrol a device that does not run.

    Raises:
        Refused: it is enrolled already, an agent uses the folder, or the cloud does not take the token.
        Transient: the cloud cannot be asked now.

    """
    with FolderLock(state, field="state_dir"):
        _, wanted = identity_or_how(state, how)
        if wanted is None:
            raise enrolled_already(state)
        async with aiohttp.ClientSession() as session:
            enrolled = await enrol_once(state, wanted, http=session)
    return enrolled.own


def wanted_for(
    identity: Identity | None, *, url: str, token: str, hardware: Hardware, agent_version: str
) -> Enrolment | None:
    """How to get an identity; None where there is one.

    Raises:
        Refused: there is none, and nobody said where to get one.

    """
    if identity is not None and identity.enrolment is not None:
        return None
    for field, value in (("enrol_url", url), ("enrol_token", token)):
        if not value:
            raise Refused(
                "this device is not enrolled",
                field=field,
                value=value,
                allowed="the control plane's URL and a one-time token of it; without a cloud, use `edge-agent serve PATH`",
            )
    return Enrolment(url=url, token=token, hardware=hardware, agent_version=agent_version)


async def enrol_once(state: Path, wanted: Enrolment, *, http: aiohttp.ClientSession) -> Identity:
    """Ask once; the identity is on disk when this returns.

    Raises:
        Refused: the cloud does not take the token; asking again cannot help.
        Transient: it cannot be asked now.

    """
    identity = await asyncio.to_thread(_own_key, state)
    request = EnrolRequest(
        token=wanted.token,
        public_key=identity.signer.public_key,
        hardware=wanted.hardware,
        agent_version=wanted.agent_version,
    )
    data = await post(http, wanted.url.rstrip("/") + Paths.ENROL, request)
    try:
        answer = msgspec.json.decode(data, type=EnrolAnswer)
    except msgspec.DecodeError as error:
        raise Transient(f"the answer is no enrolment: {error}", why=Unavailable.UNREACHABLE) from error
    enrolled = msgspec.structs.replace(identity, enrolment=answer)
    await asyncio.to_thread(save_identity, state, enrolled)
    return enrolled


async def enrol(
    state: Path, wanted: Enrolment, *, http: aiohttp.ClientSession, log: Log, draw: Callable[[], float]
) -> Identity:
    """Ask until there is an answer, with full jitter between attempts.

    Raises:
        Refused: the cloud does not take the token.

    """
    attempt = 0
    while True:
        try:
            identity = await enrol_once(state, wanted, http=http)
        except Transient as error:
            pause = backoff(attempt, u=draw(), base=RETRY_FIRST_S, cap=RETRY_MOST_S)
            say = log.warning if attempt == 0 else log.debug
            say("not enrolled yet", url=wanted.url, error=error.message, retry_in_s=round(pause, 3))
            attempt += 1
            await asyncio.sleep(pause)
        else:
            log.info("enrolled", tenant=identity.own.tenant, device=identity.own.device)
            return identity


def enrolled_already(state: Path) -> Refused:
    """What somebody is told who enrols a device twice."""
    return Refused("this device is enrolled already", kind=Refusal.CONFLICT, field="state_dir", value=str(state))


def _own_key(state: Path) -> Identity:
    return load_identity(state) or new_identity(state)
