import asyncio
import base64
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import msgspec
import pytest
import structlog
from aiohttp import web

from edge_agent.control.enrol import Enrolment, enrol, enrol_once
from edge_agent.control.identity import AccessTokens, load_identity, new_identity, save_identity
from shared.io.clock import SystemClock
from shared.io.signing import Signer, verify
from shared.protocol.enrolment import Broker, EnrolAnswer, EnrolRequest, PinnedKey, TokenAnswer, TokenRequest
from shared.protocol.errors import Corrupt, Refused, Transient
from shared.protocol.reported import Hardware
from shared.protocol.topics import Path as Paths

HARDWARE = Hardware(hardware_class="x", machine="x", cpus=1, memory_bytes=1)


def answer_for(url: str) -> EnrolAnswer:
    return EnrolAnswer(
        tenant="default",
        device="lamp-1",
        keys=(Signer.generate().pinned,),
        tuf_root=None,
        broker=Broker(host="127.0.0.1", port=1883, username="default/lamp-1", password="secret"),
        api_url=url,
        gateway_url=url,
    )


class Api:
    """A device API that plays what it is told."""

    def __init__(self) -> None:
        self.enrolled: list[EnrolRequest] = []
        self.asked: list[TokenRequest] = []
        self.failures: list[int] = []
        self.life = 3600.0
        self.url = ""

    async def enrol(self, request: web.Request) -> web.Response:
        self.enrolled.append(msgspec.json.decode(await request.read(), type=EnrolRequest))
        if self.failures:
            status = self.failures.pop(0)
            return web.json_response({"detail": "this token was used"}, status=status)
        return web.Response(body=msgspec.json.encode(answer_for(self.url)))

    async def token(self, request: web.Request) -> web.Response:
        self.asked.append(msgspec.json.decode(await request.read(), type=TokenRequest))
        if self.failures:
            return web.json_response({"detail": "unknown device"}, status=self.failures.pop(0))
        answer = TokenAnswer(token=f"t{len(self.asked)}", expires_at=SystemClock().wall() + self.life)
        return web.Response(body=msgspec.json.encode(answer))


def with_api(test: Callable[[Api, aiohttp.ClientSession], Awaitable[None]]) -> None:
    async def main() -> None:
        api = Api()
        app = web.Application()
        app.router.add_post(Paths.ENROL, api.enrol)
        app.router.add_post(Paths.TOKEN, api.token)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        api.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            async with aiohttp.ClientSession() as http:
                await test(api, http)
        finally:
            await runner.cleanup()

    asyncio.run(main())


def wanted(url: str) -> Enrolment:
    return Enrolment(url=url, token="once", hardware=HARDWARE, agent_version="0")


def test_kept_private_and_read_back(tmp_path: Path) -> None:
    assert load_identity(tmp_path) is None
    identity = new_identity(tmp_path)
    file = tmp_path / "identity.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    enrolled = msgspec.structs.replace(identity, enrolment=answer_for("http://x"))
    save_identity(tmp_path, enrolled)
    assert load_identity(tmp_path) == enrolled
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize("content", [b"", b"{", b'{"seed": "AAAA"}', b'{"seed": 3}'])
def test_what_is_no_identity_is_corrupt(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "identity.json").write_bytes(content)
    with pytest.raises(Corrupt, match="identity"):
        load_identity(tmp_path)


def test_enrolment_is_on_disk_when_it_returns(tmp_path: Path) -> None:
    async def test(api: Api, http: aiohttp.ClientSession) -> None:
        identity = await enrol_once(tmp_path, wanted(api.url), http=http)
        assert identity.enrolment is not None
        assert load_identity(tmp_path) == identity
        assert api.enrolled[0].public_key == identity.signer.public_key

    with_api(test)


def test_an_enrolment_that_failed_is_asked_for_with_the_same_key(tmp_path: Path) -> None:
    async def test(api: Api, http: aiohttp.ClientSession) -> None:
        api.failures = [500, 503, 429]
        identity = await enrol(tmp_path, wanted(api.url), http=http, log=structlog.get_logger(), draw=lambda: 0.0)
        assert len(api.enrolled) == 4
        assert {request.public_key for request in api.enrolled} == {identity.signer.public_key}

    with_api(test)


def test_a_refused_token_ends_it_with_the_clouds_words(tmp_path: Path) -> None:
    async def test(api: Api, http: aiohttp.ClientSession) -> None:
        api.failures = [403]
        with pytest.raises(Refused, match="this token was used"):
            await enrol(tmp_path, wanted(api.url), http=http, log=structlog.get_logger(), draw=lambda: 0.0)

    with_api(test)


def test_an_unreachable_cloud_is_transient(tmp_path: Path) -> None:
    async def main() -> None:
        async with aiohttp.ClientSession() as http:
            for url in ("http://127.0.0.1:1", "not a url"):
                with pytest.raises(Transient):
                    await enrol_once(tmp_path, wanted(url), http=http)

    asyncio.run(main())


def test_tokens_are_proved_kept_renewed_and_forgotten() -> None:
    async def test(api: Api, http: aiohttp.ClientSession) -> None:
        key = Signer.generate()
        tokens = AccessTokens(answer_for(api.url), key, http=http, clock=SystemClock())
        assert await asyncio.gather(*(tokens.token() for _ in range(5))) == ["t1"] * 5
        assert await tokens.token() == "t1"
        request = api.asked[0]
        pinned = PinnedKey(key_id="own", public_key=key.public_key)
        said = f"{request.tenant}/{request.device}/{request.at}".encode()
        verify(said, signature=request.signature, key_id="own", keys=[pinned])
        tokens.forget("t0")
        assert await tokens.token() == "t1"
        tokens.forget("t1")
        assert await tokens.token() == "t2"
        api.life = 0.0
        tokens.forget("t2")
        assert await tokens.token() == "t3"
        assert await tokens.token() == "t4"

    with_api(test)


def test_a_token_that_cannot_be_had() -> None:
    async def test(api: Api, http: aiohttp.ClientSession) -> None:
        tokens = AccessTokens(answer_for(api.url), Signer.generate(), http=http, clock=SystemClock())
        api.failures = [401, 502]
        with pytest.raises(Refused, match="unknown device"):
            await tokens.token()
        with pytest.raises(Transient):
            await tokens.token()
        assert await tokens.token() == "t3"

    with_api(test)


def test_the_seed_is_the_key() -> None:
    key = Signer.generate()
    assert Signer.from_bytes(base64.b64decode(base64.b64encode(key.to_bytes()))).public_key == key.public_key
