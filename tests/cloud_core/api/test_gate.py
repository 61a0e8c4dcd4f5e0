"""Publishing waits for the gate: what it refuses is a problem document, and who goes away takes the trial with them."""

import asyncio
import hashlib
import io

import pytest

from cloud_core.models.trial import PassedVersion
from shared.bundle.manifest import canonical
from shared.protocol.errors import Refusal, Refused, Transient, Unavailable
from shared.protocol.reported import Isolation
from tests.cloud_core.api.bundles import bundle
from tests.cloud_core.api.server import running

PATH = "/api/v1/models/tiny/versions"
JSON = {"Content_Type": "application/json"}


class Gate:
    """Says what it is told to; `entered` and `left` tell of one that waits."""

    isolation = Isolation.SECCOMP

    def __init__(self):
        self.error = None
        self.wait = None
        self.entered = asyncio.Event()
        self.left = asyncio.Event()
        self.asked = 0

    async def passed(self, data, manifest, store):
        self.asked += 1
        self.entered.set()
        try:
            if self.wait is not None:
                await self.wait.wait()
        finally:
            self.left.set()
        if self.error is not None:
            raise self.error
        return PassedVersion(unrun=("cuda was not run",))


def with_api(url, folder, work):
    async def main():
        gate = Gate()
        async with running(url, folder, gate=gate) as api:
            manifest, pieces = bundle()
            for piece in pieces:
                await api.admin("PUT", f"/api/v1/chunks/{hashlib.sha256(piece).hexdigest()}", piece)
            await work(api, gate, canonical(manifest))

    asyncio.run(main())


def test_the_verdict_is_the_answer(sqlite_url, tmp_path):
    async def work(api, gate, data):
        gate.error = Refused("cpu: it kills", kind=Refusal.UNPROCESSABLE, field="variants[0]", code="crashed")
        answer = await api.admin("POST", PATH, data, **JSON)
        assert (answer.status, answer.json["code"], answer.json["field"]) == (422, "crashed", "variants[0]")
        gate.error = Transient("no room", why=Unavailable.STORAGE)
        assert (await api.admin("POST", PATH, data, **JSON)).status in (503, 507)
        assert (await api.admin("GET", "/api/v1/models")).json["items"] == []
        gate.error = None
        answer = await api.admin("POST", PATH, data, **JSON)
        assert (answer.status, answer.json["unrun"]) == (201, ["cuda was not run"])
        health = await api.anybody("GET", "/health")
        assert health.json["isolation"] == "seccomp"

    with_api(sqlite_url, tmp_path, work)


def test_nothing_is_tried_for_who_may_not_publish_or_says_nonsense(sqlite_url, tmp_path):
    async def work(api, gate, data):
        viewer = await api.client("viewer")
        assert (await viewer("POST", PATH, data, **JSON)).status == 403
        assert (await api.anybody("POST", PATH, data, **JSON)).status == 401
        assert (await api.admin("POST", PATH, b"{", **JSON)).status in (400, 422)
        assert (await api.admin("POST", "/api/v1/models/other/versions", data, **JSON)).status in (400, 422)
        assert (await api.admin("POST", PATH, data.replace(b"tiny", b"teny"), **JSON)).status in (400, 422)
        assert gate.asked == 0

    with_api(sqlite_url, tmp_path, work)


def test_a_client_that_goes_away_ends_its_trial_and_publishes_nothing(sqlite_url, tmp_path):
    async def work(api, gate, data):
        gate.wait = asyncio.Event()
        headers = {"Authorization": f"Bearer {api.admin.token}", "Content-Type": "application/json"}
        posting = asyncio.create_task(api.admin.session.post(api.url + PATH, data=io.BytesIO(data), headers=headers))
        await gate.entered.wait()
        assert not gate.left.is_set()
        # Others are served meanwhile.
        assert (await api.admin("GET", "/api/v1/models")).status == 200
        posting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await posting
        async with asyncio.timeout(20):
            await gate.left.wait()
        assert (await api.admin("GET", "/api/v1/models")).json["items"] == []

    with_api(sqlite_url, tmp_path, work)
