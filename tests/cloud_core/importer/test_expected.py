"""Expectations and answers are two forms of one thing."""

import numpy as np
import pytest

from cloud_core.importer.expected import expect_of, whole_results
from shared.serving.answer import Embedding, Entities, Entity, Label, Relation, Relations, Tensors, Text
from shared.serving.versions.golden import GoldenItem, difference

ENTITY = Entity(type="PER", start=1, end=3, text="小明", score=0.87654321)
ANSWERS = [
    Label(label="好", score=0.75, scores={"好": 0.75, "坏": 0.25}),
    Entities(entities=(ENTITY,)),
    Entities(entities=()),
    Relations(
        relations=(
            Relation(
                type="school", subject="小明", object="北大", score=0.5, object_start=4, object_end=6, within=(ENTITY,)
            ),
        )
    ),
    Embedding(embedding=np.array([0.1, -0.2, 1 / 3], dtype=np.float32)),
    Text(text="好吧", finish="stop"),
    Tensors(outputs={"y": np.array([[1.5, 2.25]], dtype=np.float32), "n": np.array([3], dtype=np.int64)}),
]


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: type(answer).__name__)
def test_an_answer_is_what_it_expects(answer):
    expect = expect_of(answer)
    assert difference(expect, answer, 1e-6) is None
    (back,) = whole_results([GoldenItem(text="x", expect=expect)])
    assert difference(expect, back, 1e-6) is None


@pytest.mark.parametrize(
    "expect",
    [
        {"label": "好", "score": 0.9},
        {"entities": [{"type": "PER", "start": 0, "end": 2}]},
        {"entities": 7},
        {"relations": [{"type": "x"}]},
        {"embedding": "none"},
        {"label": "好", "score": "much", "scores": {}},
        {},
    ],
)
def test_a_part_of_an_answer_is_no_answer(expect):
    assert whole_results([GoldenItem(text="x", expect=expect)]) == [None]


def test_numbers_are_written_with_the_digits_a_float32_has():
    found = expect_of(Tensors(outputs={"y": np.array([1 / 3, 1e-8, 123456.789], dtype=np.float32)}))
    assert found == {"outputs": {"y": [0.3333333, 1e-08, 123456.8]}}
