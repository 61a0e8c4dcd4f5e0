import json
import math

import pytest

from bench.result import Result
from bench.rounds import Interval


@pytest.mark.parametrize(
    ("value", "goal", "missed"),
    [
        (1.5, ("<=", 1.6), False),
        (1.7, ("<=", 1.6), True),
        (0.9, (">=", 0.9), False),
        (0.89, (">=", 0.9), True),
        (1.0, ("<", 1.0), True),
        (1.0, (">", 1.0), True),
        (math.nan, (">=", 0.0), True),
        (math.nan, ("<=", 9.0), True),
    ],
)
def test_a_goal_binds_its_metric(value, goal, missed):
    result = Result(name="x", metrics={"m": value}, goals={"m": goal})
    assert result.missed() == (["m"] if missed else [])


def test_a_goal_without_its_metric_is_missed():
    assert Result(name="x", metrics={}, goals={"m": ("<=", 1.0)}).missed() == ["m"]


@pytest.mark.parametrize(("interval", "missed"), [((1.1, 3.0), False), ((0.99, 3.0), True), ((math.nan, 3.0), True)])
def test_a_goal_may_bind_the_whole_interval(interval, missed):
    found = Interval(2.0, *interval)
    result = Result(name="x", metrics={"m": 2.0}, goals={}, intervals={"m": found}, interval_goals={"m": (">", 1.0)})
    assert bool(result.missed()) is missed


def test_what_is_written_is_json_with_the_missed_goals(tmp_path, monkeypatch):
    monkeypatch.delenv("BENCH_QUICK", raising=False)
    result = Result(name="x", metrics={"a": math.nan, "b": 1.0}, goals={"a": ("<=", 1.0)}, notes=("one is missing",))
    document = json.loads(result.write(tmp_path).read_text())
    assert document["metrics"] == {"a": None, "b": 1.0}
    assert document["missed"] == ["a"]
    assert document["notes"] == ["one is missing"]
    assert document["machine"]["cores"] >= 1
