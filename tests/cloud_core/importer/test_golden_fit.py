"""The golden set that travels: what every variant answers, in every way it may be run, and by how much scores may differ."""

import pytest

from cloud_core.importer.golden_fit import LEAST_TOLERANCE, NARROW_TOLERANCE, Answers, fitted
from shared.protocol.errors import Refused
from shared.serving.answer import Entities, Entity, Label
from shared.serving.versions.golden import Golden, GoldenItem, difference


def label(name, score):
    return Label(label=name, score=score, scores={name: score, "other": 1 - score})


def entities(*starts):
    return Entities(
        entities=tuple(Entity(type="PER", start=start, end=start + 1, text="x", score=0.9) for start in starts)
    )


def same(results):
    return Answers(list(results), list(results), list(results))


LABELS = Golden(
    items=tuple(GoldenItem(text=str(i), expect={"label": "good", "score": 0.9}) for i in range(3)),
)


def test_what_all_variants_reproduce_stays_with_the_tolerance_each_needs():
    told = {
        "cpu-fp32": same([label("good", 0.9)] * 3),
        "cpu-int8": same([label("good", 0.9), label("good", 0.93), label("bad", 0.6)]),
    }
    found = fitted(LABELS, told)
    assert [item.text for item in found.items] == ["0", "1"]
    assert found.tolerances["cpu-fp32"] == pytest.approx(2 * LEAST_TOLERANCE)
    assert found.tolerances["cpu-int8"] == pytest.approx(0.1)
    for item, result in zip(found.items, told["cpu-int8"].alone, strict=False):
        assert difference(item.expect, result, found.tolerances["cpu-int8"]) is None


@pytest.mark.parametrize("way", ["alone", "together", "elsewhere"])
def test_an_input_that_tips_over_in_any_way_of_running_does_not_travel(way):
    items = tuple(
        GoldenItem(text=str(i), expect={"entities": [{"type": "PER", "start": i, "end": i + 1}]}) for i in range(2)
    )
    good = [entities(0), entities(1)]
    ways = {"alone": good, "together": good, "elsewhere": good} | {way: [entities(0), entities(5)]}
    found = fitted(Golden(items=items), {"cpu-int8": Answers(**ways)})
    assert [item.text for item in found.items] == ["0"]
    assert found.tolerances == {"cpu-int8": NARROW_TOLERANCE}


def test_a_score_that_is_another_score_is_no_tolerance():
    with pytest.raises(Refused) as caught:
        fitted(LABELS, {"cpu-int8": same([label("good", 0.55)] * 3)})
    assert caught.value.code == "golden-differs"


def test_a_set_of_nothing_stays_one():
    assert fitted(Golden(items=()), {"cpu-fp32": same([])}) == Golden(items=())
