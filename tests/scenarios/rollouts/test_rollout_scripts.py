"""Golden transcripts of rollouts: commands, `----`, and what they print. Written anew by `--rewrite-scenarios`, as those of routing."""

from pathlib import Path

import pytest

from cloud_core.decide.rollout_spec import State, Why
from tests.scenarios.rollouts.commands import Commands
from tests.scenarios.transcripts import Step, check, expected_of_all, steps

SCRIPTS = sorted((Path(__file__).parent / "scripts").glob("*.txt"))


def play(path: Path) -> list[tuple[Step, str]]:
    commands = Commands()
    return [(step, commands.run(step.command)) for step in steps(path.read_text())]


@pytest.mark.parametrize("path", SCRIPTS, ids=[path.stem for path in SCRIPTS])
def test_the_script_prints_what_it_says(path: Path, request: pytest.FixtureRequest) -> None:
    check(path, play(path), request)


@pytest.mark.parametrize("why", Why)
def test_every_reason_is_in_a_script(why: Why) -> None:
    text = expected_of_all(SCRIPTS)
    assert f"({why.value})" in text or f" {why.value} ->" in text


@pytest.mark.parametrize("state", State)
def test_every_state_is_in_a_script(state: State) -> None:
    assert f": {state.value} (" in expected_of_all(SCRIPTS)
