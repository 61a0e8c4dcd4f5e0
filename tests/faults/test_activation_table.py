"""Every fault at every step of an activation, once and for ever: which way it goes and how it ends, row by row."""

import tempfile
from pathlib import Path

import pytest

from tests.faults.activation_faults import play, prepared
from tests.faults.one_fault import Case

TABLE = Path(__file__).with_name("activation_table.txt")


def rows():
    found = []
    for line in TABLE.read_text().splitlines():
        if line and not line.startswith("#"):
            kind, where, times, end, chain = (word.strip() for word in line.split("|"))
            # Hours of waiting are virtual, and not all of them are needed each time.
            marks = [pytest.mark.slow] if (kind, times) == ("read-only", "forever") else []
            case = Case(kind, where, times)
            found.append(pytest.param(case, end, chain, id=" ".join(case), marks=marks))
    return found


@pytest.fixture(scope="module")
def base():
    with tempfile.TemporaryDirectory(prefix="tideline-activation-") as folder:
        yield prepared(Path(folder) / "agent")


@pytest.mark.parametrize(("case", "end", "chain"), rows())
def test_row(base, quick_folder, case, end, chain):
    went, ended, answering, answered = play(base, quick_folder, case)
    assert (went, ended) == (chain, end)
    # The new version answers where it was committed, the one before it everywhere else; nobody was ever left without one.
    assert answering == ("1.3.0" if end.endswith("committed") else "1.2.0")
    assert answered <= {"1.2.0", "1.3.0"}
