"""Figures of two sets of answers: what each kind counts, and that an answer agrees with itself."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_core.importer.agreement import alike, compared, difference_in_words, is_same
from shared.serving.answer import Embedding, Entities, Entity, Label, Relation, Relations, Tensors, Text

scores = st.floats(0, 1)
labels = st.builds(
    lambda label, score: Label(label=label, score=score, scores={label: score}), st.sampled_from("ab"), scores
)
spans = st.builds(lambda kind, start, length: (kind, start, start + length), st.sampled_from(["PER", "LOC"]), st.integers(0, 20), st.integers(1, 5))  # fmt: skip
texts = st.builds(lambda text: Text(text=text, finish="stop"), st.text(max_size=5))


def label(name, score, **others):
    return Label(label=name, score=score, scores={name: score, **others})


def entities(*found, score=0.9):
    return Entities(
        entities=tuple(Entity(type=kind, start=a, end=b, text="x" * (b - a), score=score) for kind, a, b in found)
    )


def vector(*values):
    return Embedding(embedding=np.array(values, dtype=np.float32))


def test_labels_and_the_largest_difference_of_any_score():
    wanted = [label("good", 0.9, bad=0.1), label("good", 0.6, bad=0.4)]
    found = [label("good", 0.85, bad=0.15), label("bad", 0.7, good=0.3)]
    assert compared(wanted, found) == {"labels": 0.5, "largest_score_difference": pytest.approx(0.3)}


def test_a_label_that_is_not_scored_any_more_counts_in_full():
    assert compared([label("good", 0.9)], [label("bad", 0.9)])["largest_score_difference"] == pytest.approx(0.9)


def test_entities_count_whole():
    wanted = [entities(("PER", 0, 2), ("LOC", 3, 5)), entities()]
    found = [entities(("PER", 0, 2), ("LOC", 3, 6)), entities()]
    figures = compared(wanted, found, ["abcdefgh", "ij"])
    assert figures["entities"] == 0.5
    assert figures["texts"] == 0.5
    assert figures["tags"] == pytest.approx(9 / 10)


def test_nothing_found_twice_is_agreement():
    assert compared([entities()], [entities()])["entities"] == 1.0


def test_relations_count_with_their_subjects():
    def relation(subject):
        return Relations(relations=(Relation(type="school", subject=subject, object="x", score=0.8, object_start=3, object_end=4),))  # fmt: skip

    assert compared([relation("a")], [relation("a")])["relations"] == 1.0
    assert compared([relation("a")], [relation("b")])["relations"] == 0.0


def test_vectors_by_angle_and_entry():
    figures = compared([vector(1, 0), vector(0, 2)], [vector(1, 0), vector(2, 0)])
    assert figures == {"mean_cosine": 0.5, "least_cosine": 0.0, "largest_difference": 2.0}


def test_vectors_of_nothing_are_the_same_and_differ_from_others():
    assert compared([vector(0, 0)], [vector(0, 0)])["least_cosine"] == 1.0
    assert compared([vector(0, 0)], [vector(1, 0)])["least_cosine"] == 0.0


def test_tensors_by_every_output_texts_included():
    def tensors(number, text):
        return Tensors(outputs={"n": np.array([number, 1.0]), "t": np.array([text], dtype=object)})

    assert compared([tensors(1.0, b"a")], [tensors(1.0, b"a")])["least_cosine"] == 1.0
    assert compared([tensors(1.0, b"a")], [tensors(1.0, b"b")])["least_cosine"] < 1.0
    assert compared([tensors(1.0, b"a")], [tensors(-1.0, b"a")])["largest_difference"] == 2.0


@given(st.one_of(st.lists(labels, min_size=1), st.lists(texts, min_size=1), st.lists(st.lists(spans, max_size=3).map(lambda found: entities(*found)), min_size=1)))  # fmt: skip
def test_answers_agree_with_themselves(answers):
    figures = compared(answers, answers)
    assert all(value == (0.0 if "difference" in name else 1.0) for name, value in figures.items())
    assert all(is_same(answer, answer) and alike(answer, answer) for answer in answers)


@given(st.lists(st.tuples(labels, labels), min_size=1))
def test_the_share_of_labels_is_symmetric(pairs):
    left, right = zip(*pairs, strict=True)
    assert compared(left, right)["labels"] == compared(right, left)["labels"]


def test_nothing_to_compare_is_an_error():
    with pytest.raises(ValueError, match="one at least"):
        compared([], [])
    with pytest.raises(ValueError, match="the same inputs"):
        compared([label("a", 1)], [])


def test_only_what_is_of_one_shape_can_be_compared():
    assert not alike(vector(1, 2), vector(1, 2, 3))
    assert not alike(vector(1, 2), label("a", 1))


def test_a_difference_is_told_in_words():
    assert difference_in_words(label("good", 0.9), label("bad", 0.8)) == "'good 0.9000' | 'bad 0.8000'"
    assert "nothing" in difference_in_words(entities(("PER", 0, 2)), entities())
    assert difference_in_words(vector(1, 0), vector(0, 1)) == "cosine 0.0000"
