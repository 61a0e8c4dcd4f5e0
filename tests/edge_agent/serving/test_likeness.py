import math

import numpy as np
import pytest

from edge_agent.decide.shadow import Difference, difference
from edge_agent.serving.likeness import pairs_of
from shared.serving.answer import Embedding, Entities, Entity, Label, Relation, Relations, Result, Tensors, Text


def differ(real: Result, shadow: Result) -> Difference | None:
    """What they differ in, the same both ways."""
    found = difference(pairs_of([real], [shadow]))
    assert difference(pairs_of([shadow], [real])) == found
    assert difference(pairs_of([real], [real])) is None
    return found


def label(name: str, score: float = 0.9) -> Label:
    return Label(label=name, score=score, scores={name: score})


def entity(start: int, type: str = "PER", score: float = 0.9) -> Entity:
    return Entity(type=type, start=start, end=start + 2, text="ab", score=score)


def relation(object: str, **fields: object) -> Relation:
    return Relation(type="school", subject="x", object=object, score=0.5, object_start=0, object_end=1, **fields)  # type: ignore[arg-type]


def vector(*numbers: float) -> Embedding:
    return Embedding(embedding=np.array(numbers, dtype=np.float32))


def tensors(dtype: str = "float32", **outputs: object) -> Tensors:
    return Tensors(outputs={name: np.array(value, dtype=dtype) for name, value in outputs.items()})


def test_labels() -> None:
    assert differ(label("good"), label("good", 0.5)) is None
    assert differ(label("good"), label("bad")) is Difference.LABEL


def test_entities_in_any_order_and_whatever_their_scores() -> None:
    one = Entities(entities=(entity(0), entity(5)))
    assert differ(one, Entities(entities=(entity(5, score=0.1), entity(0)))) is None
    assert differ(one, Entities(entities=(entity(0),))) is Difference.ENTITIES
    assert differ(one, Entities(entities=(entity(0), entity(5, "LOC")))) is Difference.ENTITIES
    assert differ(one, Entities(entities=(entity(0), entity(5), entity(5)))) is Difference.ENTITIES


def test_relations() -> None:
    one = Relations(relations=(relation("a"), relation("b")))
    assert differ(one, Relations(relations=(relation("b"), relation("a")))) is None
    assert differ(one, Relations(relations=(relation("a"), relation("c")))) is Difference.RELATIONS
    deeper = Relations(relations=(relation("a", within=(entity(0),)), relation("b")))
    assert differ(one, deeper) is Difference.RELATIONS


def test_vectors_by_their_angle() -> None:
    assert differ(vector(1, 2, 3), vector(2, 4, 6)) is None
    assert differ(vector(1, 2, 3), vector(1, 2, 3.1)) is None
    assert differ(vector(1, 0), vector(0, 1)) is Difference.VECTOR
    assert differ(vector(1, 2), vector(1, 2, 0)) is Difference.VECTOR
    assert differ(vector(0, 0), vector(0, 1)) is Difference.VECTOR
    assert differ(vector(0, 0), vector(0, 0)) is None


def test_texts() -> None:
    assert differ(Text(text="a", tokens=1), Text(text="a", tokens=2)) is None
    assert differ(Text(text="a"), Text(text="ab")) is Difference.TEXT


def test_tensors_by_form_and_by_distance() -> None:
    one = tensors(y=[1.0, 2.0])
    assert differ(one, tensors(y=[1.0, 2.001])) is None
    assert differ(one, tensors(y=[1.0, 2.1])) is Difference.TENSORS
    assert differ(one, tensors(z=[1.0, 2.0])) is Difference.TENSORS
    assert differ(one, tensors(y=[[1.0, 2.0]])) is Difference.TENSORS
    assert differ(one, tensors("float64", y=[1.0, 2.0])) is Difference.TENSORS
    assert differ(tensors("int64", y=[1000]), tensors("int64", y=[1001])) is Difference.TENSORS
    assert differ(tensors("O", y=["a"]), tensors("O", y=["a"])) is None
    assert differ(tensors(y=[0.0]), tensors(y=[0.0])) is None
    assert differ(tensors(y=[math.nan, 1.0]), tensors(y=[math.nan, 1.0])) is None
    assert differ(tensors(y=[math.inf]), tensors(y=[1.0])) is Difference.TENSORS
    assert differ(tensors("int64", y=[]), tensors("int64", y=[])) is None


@pytest.mark.parametrize(
    ("real", "shadow"),
    [([label("a")], [Text(text="a")]), ([label("a")], []), ([label("a")], [label("a"), label("a")])],
)
def test_what_cannot_be_compared_differs(real: list[Result], shadow: list[Result]) -> None:
    assert difference(pairs_of(real, shadow)) is Difference.KIND
