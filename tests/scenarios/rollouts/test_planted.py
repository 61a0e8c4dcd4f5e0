"""What was planted is found in the first wave, and versions that are alike are let through: over seeds, with the gates as they are."""

import pytest

from cloud_core.decide.rollout_gates import Outcome
from cloud_core.decide.rollout_spec import State, Why
from tests.scenarios.rollouts.traffic import GOOD, PLANTED, Behaviour
from tests.scenarios.rollouts.world import Running, World


def rolled_out(seed: int, behaviour: Behaviour) -> Running:
    """A canary rollout over four sites of ten devices until it ends."""
    world = World([10, 10, 10, 10], seed=f"planted-{seed}", behaviours={"2.0.0": behaviour})
    running = world.start("r", "2.0.0")
    for _ in range(240):
        world.run(60.0, step=60.0)
        if running.rollout.state in (State.SUCCEEDED, State.ROLLED_BACK):
            return running
    raise AssertionError(running.rollout)


def stopped_in_first_wave(kind: str, seeds: int) -> int:
    found = 0
    for seed in range(seeds):
        running = rolled_out(seed, PLANTED[kind])
        verdict = running.verdicts[-1]
        if running.rollout.state is State.ROLLED_BACK and verdict.wave == 0:
            assert verdict.why is Why.EVIDENCE
            assert any(check.outcome is Outcome.BAD for check in verdict.checks)
            assert len(running.members) == 1
            found += 1
    return found


def alike_stopped(seeds: int) -> int:
    return sum(rolled_out(seed, GOOD).rollout.state is not State.SUCCEEDED for seed in range(seeds))


@pytest.mark.parametrize("kind", PLANTED)
def test_what_is_planted_stops_the_first_wave(kind: str) -> None:
    assert stopped_in_first_wave(kind, 5) == 5


def test_a_version_that_is_alike_goes_through() -> None:
    assert alike_stopped(2) == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", PLANTED)
def test_of_200_rollouts_95_percent_are_stopped_in_the_first_wave(kind: str) -> None:
    assert stopped_in_first_wave(kind, 200) >= 190


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_of_200_rollouts_of_equal_versions_5_percent_are_stopped_at_most() -> None:
    assert alike_stopped(200) <= 10
