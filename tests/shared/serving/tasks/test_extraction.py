"""The parts of an extraction: windows and their means, spans from logits."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from shared.bundle.manifest import Extraction
from shared.serving.tasks.extraction_search import hops, sigmoid
from shared.serving.tasks.hinted_rows import Logits, passage, windows_of


@given(st.integers(1, 2000), st.integers(2, 60), st.data())
def test_windows_cover_a_text_as_the_pipeline_cuts_it(tokens, window, data):
    stride = data.draw(st.integers(max(1, window // 2), window))
    how = Extraction(hint_length=24, window=window, stride=stride, threshold=0.5)
    found = passage("", list(range(tokens)), [], how)
    count = -(-(tokens - window) // stride) + 1 if tokens > window else 1
    assert len(found.windows) == count == windows_of(tokens, how)
    assert [each for start, end in found.windows for each in range(start, end)] == [
        each for j in range(count) for each in list(range(tokens))[j * stride : j * stride + window]
    ]
    assert found.position == (tokens if count == 1 else window)


@given(st.lists(st.lists(st.floats(-9, 9), min_size=6, max_size=6), min_size=1, max_size=5))
def test_what_windows_share_is_their_mean(windows):
    logits = Logits(4 * len(windows) + 2)
    expected: dict[int, float] = {}
    for j, values in enumerate(windows):
        logits.take(4 * j, 4 * j + 6, np.array([*values, 7.0]), np.array([*values, 7.0]))
        for i, value in enumerate(values):
            place = 4 * j + i
            expected[place] = (expected[place] + value) / 2 if place in expected else value
    assert logits.heads.tolist() == [expected[place] for place in sorted(expected)] == logits.tails.tolist()


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=12))
def test_from_each_head_to_the_nearest_tail(sides):
    heads, tails = (np.array([1.0 if side[i] else -1.0 for side in sides]) for i in range(2))
    offsets = [(i, i + 1) for i in range(len(sides))]
    found = [(hop.start, hop.end) for hop in hops("t", offsets, heads, tails, threshold=0.5)]
    expected = []
    for i, (head, _) in enumerate(sides):
        nearest = next((j for j in range(i, len(sides)) if sides[j][1]), None)
        if head and nearest is not None:
            expected.append((i, nearest + 1))
    assert found == expected


def test_special_tokens_are_no_span_and_one_span_is_found_once():
    offsets = [(0, 0), (0, 1), (0, 1), (1, 2), (0, 0)]
    high, low = 2.0, -2.0
    heads = np.array([high, high, high, high, high])
    tails = np.array([high, low, high, low, high])
    # [CLS] alone, from 1 to [SEP] and [SEP] alone are nothing; both pieces of the first character begin the same span.
    assert [hop[1:3] for hop in hops("t", offsets, heads, tails, threshold=0.5)] == [(0, 1)]


def test_sigmoid_of_any_logit():
    values = [sigmoid(logit) for logit in (-1e4, -30.0, -1.0, 0.0, 1.0, 30.0, 1e4)]
    assert all(one <= two for one, two in pairwise(values))
    assert (values[0], values[3], values[-1]) == (0.0, 0.5, 1.0)
