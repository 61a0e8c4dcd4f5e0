"""The gate: bars, the one figure that may be accepted below them, and what a batch may change."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_core.importer.gate import BARS, judge, judge_batches, table
from shared.bundle.manifest import TaskKind
from shared.protocol.errors import Refused
from shared.serving.answer import Embedding, Entities, Entity, Label

VECTORS = TaskKind.TEXT_EMBEDDING


def figures(mean, least):
    return {"mean_cosine": mean, "least_cosine": least, "largest_difference": 0.1}


def label(name, score=0.9):
    return Label(label=name, score=score, scores={name: score})


def vector(*values):
    return Embedding(embedding=np.array(values, dtype=np.float32))


def test_every_task_has_a_bar():
    assert set(BARS) == set(TaskKind)
    assert BARS[TaskKind.TEXT_CLASSIFICATION] == {"labels": 0.99}
    assert BARS[TaskKind.TOKEN_CLASSIFICATION] == {"entities": 0.99}
    assert BARS[VECTORS] == {"mean_cosine": 0.995, "least_cosine": 0.99}


def test_what_reaches_the_bars_is_let_in():
    assert judge(VECTORS, "cpu-int8", figures(0.995, 0.99)) is None


@pytest.mark.parametrize(("mean", "least"), [(0.9949, 0.99), (0.995, 0.9899), (0.9, 0.8), (0.999, float("nan"))])
def test_what_misses_one_is_refused_with_what_was_measured(mean, least):
    with pytest.raises(Refused) as caught:
        judge(VECTORS, "cpu-int8", figures(mean, least), differing=["'a': cosine 0.5"])
    assert caught.value.field == "variants.cpu-int8"
    assert caught.value.code == "drift"
    assert f"{mean:.6g}" in caught.value.message
    assert "'a': cosine 0.5" in caught.value.message
    assert "--accept-drift cpu-int8=" in str(caught.value.allowed)


def test_the_measured_figure_lets_it_in_and_is_kept():
    assert judge(VECTORS, "cpu-int8", figures(0.9944, 0.97983), accept=0.9798) == "least_cosine 0.97983"
    assert judge(VECTORS, "cpu-int8", figures(0.9944, 0.97983), accept=0.98) == "least_cosine 0.97983"
    assert judge(TaskKind.TEXT_CLASSIFICATION, "x", {"labels": 0.985}, accept=0.985) == "labels 0.985"


@pytest.mark.parametrize("accept", [0.979, 0.9799, 0.97, 0.9, 1.0, 0.9944, 0.0])
def test_another_figure_than_the_measured_one_does_not(accept):
    with pytest.raises(Refused, match="not the one measured"):
        judge(VECTORS, "cpu-int8", figures(0.9944, 0.97983), accept=accept)


def test_there_must_be_a_drift_to_accept():
    with pytest.raises(Refused, match="no drift to accept"):
        judge(VECTORS, "cpu-int8", figures(0.999, 0.998), accept=0.998)


@given(st.floats(0, 0.9899), st.integers(3, 6))
def test_the_figure_counts_to_the_digits_given(measured, digits):
    given_figure = round(measured, digits)
    if given_figure == round(given_figure, 2) and round(measured, 3) != given_figure:
        return  # fewer than three decimals count as three
    told = judge(TaskKind.TOKEN_CLASSIFICATION, "v", {"entities": measured}, accept=given_figure)
    assert told == f"entities {measured:.6g}"


def test_a_batch_may_change_nothing():
    alone = [label("good"), label("bad")]
    assert judge_batches("v", alone, alone, exact=True) == {"batch_labels": 1.0, "batch_largest_score_difference": 0.0}
    with pytest.raises(Refused, match="otherwise in a batch") as caught:
        judge_batches("v", alone, [label("good"), label("good")], exact=False)
    assert "answer 1" in caught.value.message


def test_scores_may_differ_in_narrow_arithmetic_only():
    alone, together = [label("good", 0.9)], [label("good", 0.9001)]
    assert judge_batches("v", alone, together, exact=False)["batch_labels"] == 1.0
    with pytest.raises(Refused):
        judge_batches("v", alone, together, exact=True)


def test_vectors_must_be_all_but_the_same():
    alone = [vector(1, 0)]
    assert judge_batches("v", alone, [vector(1, 0.001)], exact=False)["batch_least_cosine"] > 0.9999
    with pytest.raises(Refused):
        judge_batches("v", alone, [vector(1, 0.02)], exact=False)


def test_what_makes_no_promise_is_only_measured():
    figures = judge_batches("cpu-int8-dynamic", [label("good")], [label("bad")], exact=False, held=False)
    assert figures["batch_labels"] == 0.0


def test_the_table_shows_what_differed_and_is_short():
    def found(*spans):
        return Entities(
            entities=tuple(Entity(type="PER", start=a, end=b, text="王" * (b - a), score=1.0) for a, b in spans)
        )

    assert table(["一", "二"], [found((0, 1)), found()], [found((0, 1)), found((0, 2))]) == [
        "'二': 'nothing' | 'PER 王王 0-2'"
    ]
    rows = table([str(i) for i in range(30)], [label("a")] * 30, [label("b")] * 30)
    assert len(rows) == 11
    assert rows[-1] == "… and 20 more"
