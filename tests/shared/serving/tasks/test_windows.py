"""Long texts in windows: the plan, and that no answer changes by being read in windows."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from shared.serving.tasks.windows import CLAUSE, INSIDE, MOST, SENTENCE, WORD, begin_after, guessed_rows, planned

plans = st.tuples(
    st.lists(st.sampled_from([INSIDE, WORD, CLAUSE, SENTENCE]), max_size=400),
    st.integers(1, 60),
    st.integers(0, 80),
)


@given(plans)
@settings(deadline=None)
def test_every_piece_belongs_to_one_window_and_windows_share_what_was_asked(plan):
    begins, size, overlap = plan
    windows = planned(begins, size=size, overlap=overlap)
    shared = min(overlap, size // 4)
    owned = [piece for window in windows for piece in range(window.first, window.last)]
    assert owned == list(range(len(begins)))
    assert (windows[0].start, windows[-1].end) == (0, len(begins))
    for window in windows:
        assert window.start <= window.first <= window.last <= window.end
        assert window.end - window.start <= size
    for one, two in pairwise(windows):
        assert one.start < two.start
        assert one.end - one.start == size
        assert shared <= one.end - two.start <= max(1, 2 * shared)
        # The poorer side of each piece is the richer of what both windows could give.
        for piece in range(two.start, one.end):
            right, left = one.end - 1 - piece, piece - two.start
            assert (piece < one.last) == (right >= left)
    if len(begins) <= size:
        assert len(windows) == 1


@given(plans)
@settings(deadline=None)
def test_a_window_begins_at_the_best_place_near(plan):
    begins, size, overlap = plan
    windows = planned(begins, size=size, overlap=overlap)
    shared = min(overlap, size // 4)
    for one, two in pairwise(windows):
        latest = one.start + max(1, size - shared)
        near = begins[max(one.start + 1, latest - shared) : latest + 1]
        assert begins[two.start] == max(near) or (max(near) == INSIDE and two.start == latest)


def test_a_cut_plan_has_the_windows_of_the_whole_one():
    begins = [begin_after("。" if i % 7 == 0 else "，" if i % 5 == 0 else "王") for i in range(900)]
    whole = planned(begins, size=30, overlap=6)
    cut = planned(begins[: whole[9].end], size=30, overlap=6)
    assert [window[:2] for window in cut] == [window[:2] for window in whole[:10]]
    assert cut[-1].last == whole[9].end


@given(st.integers(0, 5000), st.integers(1, 600), st.integers(0, 700))
def test_the_guess_is_near_the_plan(length, size, overlap):
    rows = len(planned([WORD] * length, size=size, overlap=overlap))
    assert guessed_rows(length, size=size, overlap=overlap) == min(MOST, rows)
