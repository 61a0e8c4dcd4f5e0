import pytest

from edge_agent.ask import lines_of
from shared.protocol.desired import Limits
from tests.edge_agent.control.device import on_device
from tests.edge_agent.control.generations import generation, ref, signed
from tests.edge_agent.control.scene import BYTES, NEW, NEW_CHUNKS

MODEL = {"name": "m", "version": "1", "variant": "cpu", "state": "fetching"}


@pytest.mark.parametrize(
    ("told", "line"),
    [
        ({}, "  m 1 cpu: fetching"),
        ({"progress": 0.4}, "  m 1 cpu: fetching 40%"),
        (
            {"progress": 0.4, "bytes_per_s": 1.5e6, "seconds_left": 29.6},
            "  m 1 cpu: fetching 40%, 1.50 MB/s, 30 s left",
        ),
    ],
)
def test_how_far_a_fetch_is(told, line):
    report = {"applied": [1, 1], "target": [1, 2], "convergence": "converging", "models": [MODEL | told]}
    lines = lines_of({"running": True, "reported": report | {"error": "the disk is full"}})
    assert line in lines
    assert "last error the disk is full" in lines


def test_how_it_ended():
    report = {"applied": [1, 1], "target": [1, 2], "convergence": "failed", "outcome": "rolled-back", "models": []}
    assert "generation 1.1, newest 1.2: failed, rolled-back" in lines_of({"reported": report})


def test_a_device_that_fetches_says_how_fast_and_how_long_still(tmp_path):
    async def work(start, api):
        api.bytes = dict(BYTES)
        size = sum(len(piece) for piece in NEW_CHUNKS.values())
        async with start(parallel=1).running() as agent:
            seen = []
            look = agent.converger._told.changed
            agent.converger._told.changed = lambda: (seen.extend(agent.report.models), look())
            slow = Limits(download_bytes_per_s=20 * size)
            await agent.converger.accept(signed(generation(1, ref(NEW, version="1.1.0"), limits=slow)))
            await agent.until(lambda report: report.outcome == "committed")
        halfway = [each for each in seen if each.progress is not None and 0 < each.progress < 1]
        assert halfway
        assert all(each.bytes_per_s > 0 and each.seconds_left > 0 for each in halfway)
        assert agent.report.models[0].bytes_per_s is None

    on_device(tmp_path, work)
