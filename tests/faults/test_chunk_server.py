"""What a chunk server may do to a device: each ends as it should, and the model that runs answers all along."""

import pytest

from edge_agent.control import fetch_http
from shared.bundle.store import ChunkStore
from tests.edge_agent.control.generations import generation, signed
from tests.faults.answering import BYTES, NEW, TWO, committed, played

PASSES = ["cut", "stall", "redirect", 503, 401]
"""What may be over the next moment: the device tries until it is."""
LASTS = ["corrupt", "short", "endless", 404]
"""What is wrong with what is there: after some tries the device says so, and waits for another generation."""


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(fetch_http, "SILENCE_S", 0.2)


@pytest.mark.parametrize("at", ["manifest", "chunks"])
@pytest.mark.parametrize("misdeed", [*PASSES, *LASTS, "gzip", "other half"])
def test_once_it_costs_nothing_but_another_try(tmp_path, misdeed, at):
    async def work(agent, api, asker):
        _spoil(api, misdeed, at, 1)
        await agent.converger.accept(signed(TWO))
        await asker.goes_on()
        await _mended(agent, api, misdeed)
        await agent.until(committed(TWO))
        await asker.goes_on()
        assert asker.heard == {2.0, 3.0}

    played(tmp_path, work)


@pytest.mark.parametrize("at", ["manifest", "chunks"])
@pytest.mark.parametrize("misdeed", PASSES)
def test_what_may_pass_is_waited_for(tmp_path, misdeed, at):
    async def work(agent, api, asker):
        _spoil(api, misdeed, at, 10**9)
        await agent.converger.accept(signed(TWO))
        await agent.until(lambda report: report.error is not None)
        await asker.goes_on()
        report = agent.report
        assert (report.applied, report.convergence, report.outcome) == ((1, 1), "converging", None)
        assert asker.heard == {2.0}
        api.misdeeds = 0
        await agent.until(committed(TWO))
        await asker.goes_on()
        assert asker.heard == {2.0, 3.0}

    played(tmp_path, work)


@pytest.mark.parametrize("at", ["manifest", "chunks"])
@pytest.mark.parametrize("misdeed", LASTS)
def test_what_lasts_is_said_and_a_new_generation_is_a_new_chance(tmp_path, misdeed, at):
    async def work(agent, api, asker):
        _spoil(api, misdeed, at, 10**9)
        await agent.converger.accept(signed(TWO))
        await agent.until(lambda report: report.outcome == "failed")
        await asker.goes_on()
        assert agent.report.applied == (1, 1)
        assert agent.report.error.startswith("quarantined: ")
        assert asker.heard == {2.0}
        api.bytes, api.misdeeds = dict(BYTES), 0
        three = generation(3, *TWO.models)
        await agent.converger.accept(signed(three))
        await agent.until(committed(three))
        await asker.goes_on()
        assert asker.heard == {2.0, 3.0}

    played(tmp_path, work)


def _spoil(api, misdeed, at, times):
    """The next `times` answers go wrong, from the manifest on or from the first chunk on."""
    api.misdeed = misdeed
    if at == "manifest":
        api.misdeeds = times
        return
    answer = api._answer

    async def later(request, digest):
        if digest != NEW:
            api.misdeeds, api._answer = times, answer
        return await api._answer(request, digest) if digest != NEW else await answer(request, digest)

    api._answer = later


async def _mended(agent, api, misdeed):
    if misdeed == "other half":
        # The server holds other bytes from then on, until somebody puts back what was there.
        await agent.until(lambda report: report.error is not None)
        api.bytes = dict(BYTES)


def test_a_chunk_that_came_stays_whatever_comes_after_it(tmp_path):
    async def work(agent, api, asker):
        given = []
        whole = api._whole

        def count(data, begin):
            given.append(len(data))
            if len(given) == 3:
                api.misdeed, api.misdeeds = 503, 1
            return whole(data, begin)

        api._whole = count
        await agent.converger.accept(signed(TWO))
        await agent.until(committed(TWO))
        assert len(given) == len(ChunkStore(tmp_path / "chunks").held() & set(api.bytes)) // 2

    played(tmp_path, work)
