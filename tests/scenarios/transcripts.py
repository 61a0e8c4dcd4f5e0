"""Golden transcripts: commands, `----`, and what they print.

`pytest tests/scenarios --rewrite-scenarios` writes what is printed now into the scripts: read the difference before you keep it.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

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


def check(path: Path, played: Sequence[tuple[Step, str]], request: pytest.FixtureRequest) -> None:
    """Every step of the script printed what it says; or, where that is asked for, it says what they printed."""
    if request.config.getoption("--rewrite-scenarios", default=False):
        path.write_text("\n\n".join(written(step, printed) for step, printed in played) + "\n")
        pytest.skip("written anew")
    for step, printed in played:
        assert printed == step.expected, step.command


def expected_of_all(scripts: Iterable[Path]) -> str:
    return "\n".join(step.expected for path in scripts for step in steps(path.read_text()))
