"""Rollouts as the loop carries them out over the registry, on both databases, a new loop in every round: it remembers nothing."""

import asyncio

import pytest

from cloud_core.decide.rollout import Plan
from cloud_core.decide.rollout import plan as real_plan
from cloud_core.decide.rollout_devices import DeviceState
from cloud_core.decide.rollout_gates import Outcome
from cloud_core.decide.rollout_spec import Action, State, Why, acted
from cloud_core.loops import rollouts as loop
from cloud_core.store import assignments, rollouts, serving
from cloud_core.store.database import read, write
from tests.cloud_core.loops.rollout_fleet import START, fleet


def test_a_rollout_goes_through_its_waves_and_becomes_the_assignment(database_url: str, tmp_path: object) -> None:
    async def main() -> None:
        async with fleet(database_url, tmp_path, "d1", "d2", "d3", "d4") as it:
            id_ = await it.start()
            await it.rounds(1)
            assert sorted(versions[0] for versions in (await it.generations()).values()) == ["1.0.0"] * 3 + ["2.0.0"]
            async with read(it.engine) as connection:
                named = {(one.model, one.version) for one in await serving.named(connection)}
            assert named == {("m", "1.0.0"), ("m", "2.0.0")}
            ours = {"rollout": id_, "state": "updating"}
            assert it.registry.get_sample_value("tideline_rollout_devices", ours) == 1.0
            await it.rounds(20)
            assert it.registry.get_sample_value("tideline_rollout_devices", ours) is None
            stored = await it.stored(id_)
            assert (stored.state, stored.why, stored.wave) == (State.SUCCEEDED, Why.PASSED, 2)
            assert stored.finished_at is not None
            async with read(it.engine) as connection:
                assigned = await assignments.get(connection, "a", "g")
                verdicts = await rollouts.verdicts(connection, "a", id_)
                members = await rollouts.members(connection, "a", id_)
            assert assigned is not None
            assert ([(one.name, one.version) for one in assigned.wanted], assigned.priority) == ([("m", "2.0.0")], 3)
            assert [(one.wave, one.decision) for one in verdicts] == [
                (0, State.RUNNING),
                (1, State.RUNNING),
                (2, State.SUCCEEDED),
            ]
            assert {one.state for one in members.values()} == {DeviceState.SUCCEEDED}
            # Exactly one new generation for each, and none when the assignment took over.
            assert set(map(tuple, (await it.generations()).values())) == {("2.0.0", "1.0.0")}

    asyncio.run(main())


def test_slow_answers_take_it_back_with_the_numbers_kept(database_url: str, tmp_path: object) -> None:
    async def main() -> None:
        async with fleet(database_url, tmp_path, "d1", "d2", "d3", "d4") as it:
            id_ = await it.start()
            await it.rounds(2)
            async with read(it.engine) as connection:
                (canary,) = await rollouts.members(connection, "a", id_)
            await it.telemetry(canary, "1.0.0", median=0.02, at=START - 600.0)
            await it.telemetry(canary, "2.0.0", median=0.2, at=it.clock.now)
            await it.rounds(6)
            stored = await it.stored(id_)
            assert (stored.state, stored.why, stored.wave) == (State.ROLLED_BACK, Why.EVIDENCE, 0)
            async with read(it.engine) as connection:
                (verdict,) = await rollouts.verdicts(connection, "a", id_)
            bad = [check for check in verdict.checks if check.outcome is Outcome.BAD]
            assert [check.name for check in bad] == ["latency-p50", "latency-p99"]
            assert bad[0].candidate == pytest.approx(0.2, rel=0.02)
            assert bad[0].base == pytest.approx(0.02, rel=0.02)
            made = await it.generations()
            assert made.pop(canary) == ["1.0.0", "2.0.0", "1.0.0"]
            assert set(map(tuple, made.values())) == {("1.0.0",)}

    asyncio.run(main())


def test_a_device_that_fails_is_tried_again_and_then_takes_the_rollout_back(sqlite_url: str, tmp_path: object) -> None:
    async def main() -> None:
        async with fleet(sqlite_url, tmp_path, "d1", "d2") as it:
            it.failing = {"d1", "d2"}
            id_ = await it.start()
            await it.rounds(30)
            stored = await it.stored(id_)
            assert (stored.state, stored.why) == (State.ROLLED_BACK, Why.ERRORS)
            async with read(it.engine) as connection:
                (member,) = (await rollouts.members(connection, "a", id_)).values()
            assert (member.state, member.attempts, member.error) == (DeviceState.FAILED, 2, "no")
            made = await it.generations()
            assert made[member.device] == ["1.0.0", "2.0.0", "1.0.0", "2.0.0", "1.0.0"]

    asyncio.run(main())


def test_a_pause_while_it_plans_lets_nobody_in(
    sqlite_url: str, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with fleet(sqlite_url, tmp_path, "d1", "d2") as it:
            id_ = await it.start()

            async def pause() -> None:
                async with write(it.engine) as connection:
                    stored = await rollouts.get(connection, "a", id_, lock=True)
                    assert stored is not None
                    after = acted(stored.rollout, Action.PAUSE, it.clock.now)
                    assert after is not None
                    assert await rollouts.put(connection, "a", after, revision=stored.revision, now=it.clock.now)

            running = asyncio.get_running_loop()

            def paused_meanwhile(*arguments: object, **named: object) -> Plan:
                asyncio.run_coroutine_threadsafe(pause(), running).result(30)
                return real_plan(*arguments, **named)  # type: ignore[arg-type]

            with monkeypatch.context() as patch:
                patch.setattr(loop, "plan", paused_meanwhile)
                await it.tick()
            await it.rounds(5)
            assert (await it.stored(id_)).state is State.PAUSED
            assert set(map(tuple, (await it.generations()).values())) == {("1.0.0",)}

    asyncio.run(main())


def test_what_an_aborted_rollout_gave_stays_until_something_newer(sqlite_url: str, tmp_path: object) -> None:
    async def main() -> None:
        async with fleet(sqlite_url, tmp_path, "d1", "d2") as it:
            first = await it.start()
            await it.rounds(2)
            async with write(it.engine) as connection:
                stored = await rollouts.get(connection, "a", first)
                assert stored is not None
                after = acted(stored.rollout, Action.ABORT, it.clock.now)
                assert after is not None
                assert await rollouts.put(connection, "a", after, revision=stored.revision, now=it.clock.now)
            await it.rounds(3)
            assert sorted(made[0] for made in (await it.generations()).values()) == ["1.0.0", "2.0.0"]
            second = await it.start("3.0.0")
            await it.rounds(25)
            assert (await it.stored(second)).state is State.SUCCEEDED
            assert not (await it.stored(first)).holds
            made = await it.generations()
            assert sorted(map(tuple, made.values())) == [("3.0.0", "1.0.0"), ("3.0.0", "2.0.0", "1.0.0")]

    asyncio.run(main())
