import numpy as np
import pytest

from edge_agent.decide.probation import Tally
from edge_agent.serving.evidence import CHECKED, Evidence
from shared.serving.answer import Embedding, Label, Response, Tensors, Timing, Where


def response(*results, compute=0.5):
    return Response(
        id="1",
        model="m",
        version="1",
        variant="cpu",
        digest="d",
        task="t",
        results=results,
        where=Where.LOCAL,
        why="",
        timing=Timing(compute=compute),
    )


GOOD = response(Label(label="a", score=0.5, scores={}))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    "result",
    [
        lambda value: Tensors(outputs={"x": np.array([1]), "y": np.array([1.0, value], dtype=np.float32)}),
        lambda value: Embedding(embedding=np.array([value], dtype=np.float32)),
        lambda value: Label(label="a", score=value, scores={}),
    ],
)
def test_answers_that_are_no_numbers_are_seen(value, result):
    evidence = Evidence()
    evidence.asked("m", "1", "ok", response(result(1.0)))
    evidence.asked("m", "1", "ok", response(result(1.0), result(value), compute=0.25))
    assert evidence.tallies["m", "1"] == Tally(answers=2, checked=2, odd=1, fastest=0.25)


def test_only_the_first_answers_are_looked_at():
    evidence = Evidence()
    for _ in range(CHECKED):
        evidence.asked("m", "1", "ok", GOOD)
    evidence.asked("m", "1", "ok", response(Label(label="a", score=float("nan"), scores={})))
    assert evidence.tallies["m", "1"] == Tally(answers=CHECKED + 1, checked=CHECKED, odd=0, fastest=0.5)


def test_a_version_answers_only_for_what_is_its_own_fault():
    evidence = Evidence()
    for outcome in ("refused", "shed", "deadline", "not-ready", "cancelled"):
        evidence.asked("m", "1", outcome, None)
    assert evidence.tallies == {}
    evidence.asked("m", "1", "corrupt", None)
    assert evidence.tallies["m", "1"] == Tally(failures=1)
    evidence.forget("m", "1")
    assert evidence.tallies == {}
