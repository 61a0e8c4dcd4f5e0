"""Golden scenario scripts of routing."""

import asyncio
from pathlib import Path

import pytest

from edge_agent.decide.routing import Reason
from shared.protocol.policy import Mode
from tests.scenarios.commands import BECAUSE, Commands
from tests.scenarios.transcripts import Step, check, expected_of_all, steps
from tests.scenarios.virtual_time import VirtualLoop

SCRIPTS = sorted((Path(__file__).parent / "scripts").glob("*.txt"))


def play(path: Path) -> list[tuple[Step, str]]:
    """Every step of a script, and what it printed."""

    async def main(patch: pytest.MonkeyPatch) -> list[tuple[Step, str]]:
        commands = Commands(patch)
        return [(step, await commands.run(step.command)) for step in steps(path.read_text())]

    with pytest.MonkeyPatch.context() as patch, asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main(patch))


@pytest.mark.parametrize("path", SCRIPTS, ids=[path.stem for path in SCRIPTS])
def test_the_script_prints_what_it_says(path: Path, request: pytest.FixtureRequest) -> None:
    check(path, play(path), request)


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_is_in_a_script(reason: Reason) -> None:
    assert reason.value in BECAUSE.findall(expected_of_all(SCRIPTS))


@pytest.mark.parametrize("mode", Mode)
def test_every_mode_has_a_script(mode: Mode) -> None:
    assert mode.value in {path.stem for path in SCRIPTS}
    text = next(path for path in SCRIPTS if path.stem == mode.value).read_text()
    assert f"mode: {mode.value}" in text


def test_a_script_that_says_something_else_fails(tmp_path: Path) -> None:
    path = tmp_path / "wrong.txt"
    path.write_text("policy {mode: local-only}\n----\nlocal-only\n\nrequest {}\n----\nanswered from cloud\n")
    played = play(path)
    assert [printed == step.expected for step, printed in played] == [True, False]


def test_time_is_virtual_and_ends_with_the_script(tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_text("sleep {s: 86400}\n----\n")
    assert play(path)[0][1].startswith("now 86400 s")
