"""The gateway before real replicas: it balances, survives the death of one, keeps deadlines, and refuses strangers."""

import asyncio
from pathlib import Path

import msgspec

from cloud_core.api.access_tokens import AccessTokens
from cloud_core.decide.access import Principal, Role
from shared.bundle.manifest import TaskKind
from tests.cloud_core.gateway.cloud import CLOCK, InProcessReplica, cloud
from tests.cloud_core.waiting import eventually
from tests.shared.serving.bundles import bundle


async def ready(gateway, *, replicas: int = 1, model: str = "sentiment") -> None:
    """Until the gateway knows `replicas` replicas that serve a version."""

    async def known() -> bool:
        _, document = await gateway("GET", "/health")
        counts = [each["versions_ready"] for each in document["replicas"] if each["live"]]
        return sum(count > 0 for count in counts) == replicas

    await eventually(known)


async def sentiment(registry, folder: Path, version: str = "1.0.0") -> None:
    made = bundle(folder / version, "sentiment", TaskKind.TEXT_CLASSIFICATION, version=version)
    await registry.publish(made, folder / version)


def test_two_replicas_share_the_work_and_one_may_die(sqlite_url: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with cloud(sqlite_url, tmp_path, "replica-0", "replica-1") as (registry, gateway, replicas):
            await sentiment(registry, tmp_path / "m")
            await ready(gateway, replicas=2)
            status, answer = await gateway.sentiment("好", X_Request_Id="r-1")
            assert (status, answer["where"], answer["result"]["label"]) == (200, "cloud", "正面")
            assert gateway.headers["X-Tideline-Model"] == "sentiment@1.0.0/cpu"
            assert gateway.headers["X-Request-Id"] == "r-1"
            answers = await asyncio.gather(*(gateway.sentiment("坏") for _ in range(60)))
            assert {(status, answer["result"]["label"]) for status, answer in answers} == {(200, "负面")}
            counts = [replica.engine.statistics("default", "sentiment", "1.0.0").inferences for replica in replicas]
            assert all(count > 10 for count in counts), counts

            status, why = await gateway("GET", "/v1/why/r-1")
            assert (status, why["outcome"], len(why["attempts"])) == (200, "ok", 1)

            await replicas[0].crash()
            for i in range(20):
                status, _ = await gateway.sentiment("好", X_Request_Id=f"after-{i}")
                assert status == 200
            _, health = await gateway("GET", "/health")
            dead = next(each for each in health["replicas"] if each["replica"] == "replica-0")
            assert dead["failures"] > 0

            await replicas[1].crash()
            status, problem = await gateway.sentiment("好")
            assert status == 503, problem
            assert int(gateway.headers["Retry-After"]) >= 1

            # It comes back under its name: a new process is trusted at once.
            replicas[0] = await InProcessReplica(registry, "replica-0").start()

            async def answers_again() -> bool:
                return (await gateway.sentiment("好"))[0] == 200

            await eventually(answers_again)
            labels = {"model": "sentiment", "version": "1.0.0", "where": "cloud", "outcome": "ok"}
            assert (gateway.metrics.get_sample_value("tideline_requests_total", labels) or 0) >= 82
            outstanding = gateway.metrics.get_sample_value("tideline_replica_outstanding", {"replica": "replica-0"})
            assert outstanding == 0.0

    asyncio.run(main())


def test_a_variant_whose_answers_depend_on_their_batch_says_so(sqlite_url: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with cloud(sqlite_url, tmp_path, "replica-0") as (registry, gateway, _):
            for version, invariant in (("1.0.0", True), ("2.0.0", False)):
                made = bundle(tmp_path / version, "sentiment", TaskKind.TEXT_CLASSIFICATION, version=version)
                variants = tuple(msgspec.structs.replace(each, batch_invariant=invariant) for each in made.variants)
                await registry.publish(msgspec.structs.replace(made, variants=variants), tmp_path / version)
            await ready(gateway)

            async def told(version: str) -> bool | None:
                status, document = await gateway("GET", f"/v2/models/sentiment/versions/{version}")
                return bool(document["parameters"]["batch_invariant"]) if status == 200 else None

            async def both() -> bool:
                return (await told("1.0.0"), await told("2.0.0")) == (True, False)

            await eventually(both)

    asyncio.run(main())


def test_strangers_are_refused_and_tenants_do_not_see_each_other(sqlite_url: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with cloud(sqlite_url, tmp_path, "replica-0") as (registry, gateway, _):
            await sentiment(registry, tmp_path / "m")
            await ready(gateway)
            good = gateway.token
            for token in (None, "tdl_nonsense", "a.b.c"):
                gateway.token = token
                assert (await gateway.sentiment("好"))[0] == 401
                assert (await gateway("GET", "/v2/models/sentiment"))[0] == 401
                assert (await gateway("GET", "/v1/why/x"))[0] == 401
            gateway.token = await registry.token("viewer")
            assert (await gateway.sentiment("好"))[0] == 403
            gateway.token = await registry.token("client", tenant="other")
            status, _ = await gateway.sentiment("好", X_Tideline_Tenant="default")
            assert status == 404
            assert (await gateway("GET", "/v1/models"))[1]["data"] == []

            tokens = AccessTokens(registry.keys.access)
            person = Principal(tenant="default", name="admin", role=Role.ADMIN)
            gateway.token = tokens.mint(person, now=CLOCK.wall(), valid_s=60)[0]
            assert (await gateway.sentiment("好"))[0] == 200
            gateway.token = tokens.mint(person, now=CLOCK.wall() - 120, valid_s=60)[0]
            assert (await gateway.sentiment("好"))[0] == 401
            gateway.token = None
            for path in ("/live", "/ready", "/health", "/healthz", "/metrics", "/metrics/json", "/v2/health/ready"):
                assert (await gateway("GET", path))[0] == 200, path
            gateway.token = good
            assert (await gateway.sentiment("好"))[0] == 200

    asyncio.run(main())


def test_the_protocol_passes_through_with_pinned_versions_and_deadlines(sqlite_url: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with cloud(sqlite_url, tmp_path, "replica-0") as (registry, gateway, _):
            await sentiment(registry, tmp_path / "m", "1.0.0")
            await sentiment(registry, tmp_path / "m", "1.1.0")
            await registry.assign("sentiment", "1.0.0")

            async def both() -> bool:
                _, index = await gateway("POST", "/v2/repository/index", {})
                return [(each["version"], each["state"]) for each in index] == [("1.0.0", "READY"), ("1.1.0", "READY")]

            await eventually(both)
            body = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [2], "data": ["好", "坏"]}]}
            for path, version in (
                ("/v2/models/sentiment/infer", "1.1.0"),
                ("/v2/models/sentiment/versions/1.0.0/infer", "1.0.0"),
            ):
                status, answer = await gateway("POST", path, body)
                assert (status, answer["model_version"]) == (200, version)
                assert answer["outputs"][0]["data"] == ["正面", "负面"]
            assert (await gateway("POST", "/v2/models/sentiment/versions/9.0.0/infer", body))[0] == 404
            assert (await gateway("POST", "/v2/models/absent/infer", body))[0] == 404
            status, _ = await gateway.sentiment("好", X_Tideline_Deadline_Ms="0")
            assert status in (429, 504)
            status, refusal = await gateway.sentiment("好" * 400)
            assert status == 422
            assert "16" in refusal["detail"]

    asyncio.run(main())
