"""`/device/v1`: what devices call: enrolment, access tokens, manifests and chunks; each within its own tenant."""

import asyncio
import base64
import binascii

import msgspec
from aiohttp import hdrs, web

from cloud_core.api.auth import hash_of, unauthenticated
from cloud_core.api.chunk_answer import OCTETS, answer_chunk
from cloud_core.api.routes import Call, Needs, Open, Reply, Route, Scope, absent
from cloud_core.broker.passwords import hash_password, new_password
from cloud_core.decide.access import Principal, Resource, Role, Verb
from cloud_core.store import audit, devices, versions
from cloud_core.store.database import read, write
from shared.io.signing import verify
from shared.protocol import names
from shared.protocol.enrolment import Broker, EnrolAnswer, EnrolRequest, PinnedKey, TokenAnswer, TokenRequest
from shared.protocol.errors import Refusal, Refused
from shared.protocol.topics import Path

SKEW_S = 300.0
"""How far a device's clock may be off when it asks for a token."""
MAX_BATCH = 256
MAX_BATCH_BYTES = 64 << 20
BATCH_TYPE = "application/vnd.tideline.chunks"


class ChunkBatch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Chunks to send in one answer."""

    digests: tuple[str, ...]


async def enrolled(call: Call) -> Reply:
    """Use a one-time token up; of two racing claims one wins, and the other hears what any wrong token hears."""
    body: EnrolRequest = call.body
    _checked_key(body.public_key)
    password = new_password()
    async with write(call.api.engine) as connection:
        owner = await devices.enrol(
            connection,
            hash_of(body.token),
            public_key=body.public_key,
            mqtt_password_hash=hash_password(password),
            hardware=body.hardware,
            agent_version=body.agent_version[:64],
            now=call.now,
        )
        if owner is None:
            raise unauthenticated()
        tenant, device = owner
        await audit.append(
            connection,
            tenant,
            principal=f"device:{device}",
            verb="enrol",
            resource=Resource.DEVICES,
            name=device,
            now=call.now,
            detail={"hardware_class": body.hardware.hardware_class[:64]},
        )
        root = await call.api.trust.root(connection, tenant, now=call.now)
    settings = call.api.settings
    broker = Broker(
        host=settings.public_host or settings.mqtt_host,
        port=settings.mqtt_port,
        username=f"{tenant}/{device}",
        password=password,
    )
    return Reply(
        value=EnrolAnswer(
            tenant=tenant,
            device=device,
            keys=(call.api.keys.generation.pinned,),
            tuf_root=root,
            broker=broker,
            api_url=settings.advertised_api_url,
            gateway_url=settings.advertised_gateway_url,
        )
    )


async def access_token(call: Call) -> Reply:
    """A short-lived token for a device that proves it holds its key."""
    body: TokenRequest = call.body
    if abs(call.now - body.at) > SKEW_S:
        raise unauthenticated()
    async with read(call.api.engine) as connection:
        device = await devices.get(connection, body.tenant, body.device)
    if device is None or device.public_key is None:
        raise unauthenticated()
    proof = f"{body.tenant}/{body.device}/{body.at}".encode()
    pinned = PinnedKey(key_id="device", public_key=device.public_key)
    try:
        verify(proof, signature=body.signature, key_id="device", keys=(pinned,))
    except Refused as error:
        raise unauthenticated() from error
    if device.enrol_key is not None:
        async with write(call.api.engine) as connection:
            await devices.settle_enrolment(connection, body.tenant, body.device)
    principal = Principal(tenant=body.tenant, name=body.device, role=Role.DEVICE, kind="device")
    token, expires_at = call.api.access.mint(principal, now=call.now, valid_s=call.api.settings.access_token_s)
    return Reply(value=TokenAnswer(token=token, expires_at=expires_at))


async def manifest(call: Call) -> web.StreamResponse:
    """The canonical bytes of a manifest: they hash to the digest that was asked for."""
    digest = names.checked("digest", call.segment("digest"), field="digest")
    version = await versions.by_digest(call.connection, call.tenant, digest)
    if version is None:
        raise absent("manifest", digest)
    headers = {hdrs.CACHE_CONTROL: "private, max-age=31536000, immutable"}
    return web.Response(body=version.manifest.encode(), content_type="application/json", headers=headers)


async def chunk(call: Call) -> web.StreamResponse:
    """A chunk's bytes, whole or the range asked for, packed where the device takes that; the device verifies them."""
    digest = names.checked("digest", call.segment("digest"), field="digest")
    answer = await answer_chunk(call.request, call.api.artifacts(call.tenant), digest)
    if answer is None:
        raise absent("chunk", digest)
    return answer


async def chunk_batch(call: Call) -> web.StreamResponse:
    """Many small chunks in one answer: for each that is here its 32-byte digest, its size as 8 bytes, its bytes."""
    body: ChunkBatch = call.body
    if len(body.digests) > MAX_BATCH:
        raise Refused("too many chunks", field="digests", value=len(body.digests), allowed=f"{MAX_BATCH} at most")
    for i, digest in enumerate(body.digests):
        names.checked("digest", digest, field=f"digests[{i}]")
    store = call.api.artifacts(call.tenant)
    held = await asyncio.to_thread(store.sizes, body.digests)
    if sum(held.values()) > MAX_BATCH_BYTES:
        raise Refused(
            "too much for one answer",
            kind=Refusal.TOO_LARGE,
            field="digests",
            value=sum(held.values()),
            allowed=f"{MAX_BATCH_BYTES} bytes of chunks",
        )
    response = web.StreamResponse(headers={hdrs.CONTENT_TYPE: BATCH_TYPE})
    await response.prepare(call.request)
    for digest in held:
        data = await asyncio.to_thread(store.get, digest)
        await response.write(bytes.fromhex(digest) + len(data).to_bytes(8, "big"))
        await response.write(data)
    await response.write_eof()
    return response


def _checked_key(text: str) -> None:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != 32:
        raise Refused(
            "not a public key", field="public_key", value=text, allowed="base64 of the 32 bytes of an Ed25519 key"
        )


def routes() -> tuple[Route, ...]:
    """The rows of this resource."""
    content = Needs(Verb.READ, Resource.CONTENT)
    return (
        Route(
            method="POST", path=Path.ENROL, access=Open("the one-time token in the body is the proof"), scope=Scope.NONE,
            run=enrolled, body=EnrolRequest, max_body=16384, summary="Enrol a device", answer=EnrolAnswer,
        ),
        Route(
            method="POST", path=Path.TOKEN, access=Open("the signature in the body is the proof"), scope=Scope.NONE,
            run=access_token, body=TokenRequest, max_body=8192, summary="An access token for a device",
            answer=TokenAnswer,
        ),
        Route(
            method="GET", path=Path.MANIFEST, access=content, scope=Scope.READ, run=manifest,
            summary="A manifest, as it was hashed", media=("application/json",),
        ),
        Route(
            method="GET", path=Path.CHUNK, access=content, scope=Scope.NONE, run=chunk, remembers=True,
            summary="A chunk, or a range of it", media=(OCTETS,),
        ),
        Route(
            method="POST", path=Path.CHUNK_BATCH, access=content, scope=Scope.NONE, run=chunk_batch, body=ChunkBatch,
            max_body=65536, summary="Many small chunks in one answer",
        ),
    )  # fmt: skip
