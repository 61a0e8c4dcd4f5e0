from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from shared.serving.tasks.stop_strings import StopStrings


def letter_by_letter(text, stops):
    """What remains of `text` before the stop text that is complete first, and whether there was one."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: end - max(map(len, found))], True
    return text, False


def shown(pieces, stops):
    watch, out = StopStrings(stops), []
    for piece in pieces:
        out.append(watch.push(piece))
        if watch.stopped:
            return out, True
    return [*out, watch.rest()], False


few = st.text("ab。", max_size=24)


@given(few, st.lists(st.text("ab。", min_size=1, max_size=5), max_size=4), st.lists(st.integers(0, 24)))
def test_what_is_shown_does_not_depend_on_the_pieces_it_came_in(text, stops, cuts):
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[a:b] for a, b in pairwise(places)]
    expected, stopped = letter_by_letter(text, stops)
    out, ended = shown(pieces, stops)
    assert ("".join(out), ended) == (expected, stopped)
    # Nothing is shown that has to be taken back, at no time.
    for i in range(len(out)):
        assert expected.startswith("".join(out[:i]))


def test_a_beginning_that_leads_nowhere_is_shown_late_but_whole():
    assert shown(["一", "。", "\n", "二"], ["。\n\n"]) == (["一", "", "", "。\n二", ""], False)
    assert shown(["一。", "\n", "\n二"], ["。\n\n"]) == (["一", "", ""], True)
    assert shown(["a", "b"], []) == (["a", "b", ""], False)
