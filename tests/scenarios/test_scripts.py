"""Golden scenario scripts: commands, `----`, and what they print.

`pytest tests/scenarios --rewrite-scenarios` writes what is printed now into the scripts: read the difference before you keep it.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from edge_agent.decide.routing import Reason
from shared.protocol.policy import Mode
from tests.scenarios.commands import BECAUSE, Commands
from tests.scenarios.virtual_time import VirtualLoop

SCRIPTS = sorted((Path(__file__).parent / "scripts").glob("*.txt"))
RULE = "----"


class Step(NamedTuple):
    """Comment lines before a command, the command, and what it is to print."""

    comments: tuple[str, ...]
    command: str
    expected: str


def steps(text: str) -> Iterator[Step]:
    """Blocks are separated by blank lines; in each, comments, one command, the rule, and the transcript."""
    for block in text.strip().split("\n\n"):
        above, rule, below = block.partition(f"\n{RULE}")
        *comments, command = above.splitlines()
        assert rule or not command.startswith("#"), block
        yield Step(tuple(comments), command, below.strip("\n"))


def written(step: Step, printed: str) -> str:
    return "\n".join([*step.comments, step.command, RULE, printed])


def play(path: Path) -> list[tuple[Step, str]]:
    """Every step of a script, and what it printed."""

    async def main(patch: pytest.MonkeyPatch) -> list[tuple[Step, str]]:
        commands = Commands(patch)
        return [(step, await commands.run(step.command)) for step in steps(path.read_text())]

    with pytest.MonkeyPatch.context() as patch, asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main(patch))


@pytest.mark.parametrize("path", SCRIPTS, ids=[path.stem for path in SCRIPTS])
def test_the_script_prints_what_it_says(path: Path, request: pytest.FixtureRequest) -> None:
    played = play(path)
    if request.config.getoption("--rewrite-scenarios", default=False):
        path.write_text("\n\n".join(written(step, printed) for step, printed in played) + "\n")
        pytest.skip("written anew")
    for step, printed in played:
        assert printed == step.expected, step.command


def expected_of_all() -> str:
    return "\n".join(step.expected for path in SCRIPTS for step in steps(path.read_text()))


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_is_in_a_script(reason: Reason) -> None:
    assert reason.value in BECAUSE.findall(expected_of_all())


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
