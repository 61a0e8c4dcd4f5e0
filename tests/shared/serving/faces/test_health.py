import asyncio
import threading
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from shared.serving.decide.readiness import Check, Version, judge
from tests.shared.serving.bundles import TENANT, engine, until
from tests.shared.serving.echo import load, manifest_for, playing, scripted
from tests.shared.serving.faces.server import everything, serving


def test_health_and_metrics_of_a_ready_process(tmp_path):
    async def main():
        async with everything(tmp_path, readiness={"folder": tmp_path}) as server:
            for path in ("/live", "/healthz"):
                assert (await server.get(path))[2] == {"live": True}
            status, _, body = await server.get("/ready")
            assert (status, body["ready"], body["reasons"]) == (200, True, [])
            assert {model["state"] for model in body["models"]} == {"ready"}
            _, _, body = await server.get("/health")
            assert (body["status"], body["instance"]) == ("ok", "test")
            await server.post("/predict", {"model": "ner", "text": "好"})
            _, headers, raw = await server.get("/metrics")
            assert headers["Content-Type"].startswith("text/plain")
            line = 'tideline_requests_total{model="ner",outcome="ok",version="1.0.0",where="local"} 1.0'
            assert line in raw.decode().splitlines()
            _, _, body = await server.get("/metrics/json")
            assert body["tideline_requests"]["type"] == "counter"
            assert any(
                sample["name"] == "tideline_queue_depth" and sample["labels"]["model"] == "ner"
                for sample in body["tideline_queue_depth"]["samples"]
            )

    asyncio.run(main())


def test_a_process_without_models_or_with_one_that_drains_is_not_ready():
    async def main():
        async with engine() as made, serving(made) as server:
            status, _, body = await server.get("/ready")
            assert (status, body["reasons"]) == (503, ["no model is loaded"])
            status, _, body = await server.get("/v2/health/ready")
            assert (status, body["ready"]) == (503, False)
        gate = threading.Event()
        session = playing(".", gate=gate)
        async with scripted(session) as made, serving(made) as server:
            await load(made, Path(), manifest_for())
            made.activate(TENANT, {"gen": "1.0.0"})
            tensor = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}]}
            asking = asyncio.ensure_future(server.post("/v2/models/gen/infer", tensor))
            await asyncio.to_thread(session.started.wait, 5)
            unloading = asyncio.ensure_future(made.unload(TENANT, "gen", "1.0.0"))
            await until(lambda: made.models()[0].state == "draining")
            status, _, body = await server.get("/v2/models/gen/ready")
            assert (status, body["ready"], body["reason"]) == (503, False, "draining")
            status, _, body = await server.get("/ready")
            assert (status, body["reasons"]) == (503, ["gen@1.0.0 draining: draining"])
            status, headers, body = await server.post("/v2/models/gen/infer", tensor)
            assert (status, "draining" in body["error"], headers["Retry-After"]) == (503, True, "1")
            gate.set()
            await asyncio.gather(asking, unloading)

    asyncio.run(main())


versions = st.lists(
    st.builds(
        Version,
        name=st.sampled_from("ab"),
        version=st.sampled_from(["1.0.0", "2.0.0"]),
        state=st.sampled_from(["ready", "loading", "failed"]),
        active=st.booleans(),
    ),
    max_size=4,
)


@given(versions, st.floats(0, 1), st.one_of(st.none(), st.integers(0, 2**40)), st.booleans(), st.booleans())
def test_ready_means_that_every_model_has_a_version_that_answers(found, memory, disk, needs, fine):
    verdict = judge(found, [Check(name="c", ok=fine)], memory=memory, disk_free=disk, needs_model=needs)
    names = {version.name for version in found}
    answering = {version.name for version in found if version.state == "ready"}
    held = [version for version in found if version.active and version.state != "ready"]
    roomy = disk is None or disk >= 64 * 1024 * 1024
    expected = memory <= 0.95 and roomy and fine and names == answering and not held and (bool(found) or not needs)
    assert verdict.ready == expected
    assert verdict.ready == (not verdict.reasons)
