"""How the overload benchmark judges: what is goodput, and from when all is well again."""

import math

from bench.overload import Seen, recovery


def seen(*seconds: tuple[int, int]) -> Seen:
    """Requests due and answered in time, second by second."""
    made = Seen(deadline=0.2, length=float(len(seconds)))
    for second, (due, good) in enumerate(seconds):
        for i in range(due):
            made(second + 0.5, 0.1, 200 if i < good else 429)
    return made


def test_only_an_answer_within_the_deadline_is_goodput() -> None:
    made = Seen(deadline=0.2, length=2.0)
    for latency, status in ((0.2, 200), (0.21, 200), (0.01, 429), (0.01, 504), (0.4, -1), (0.1, 0)):
        made(0.5, latency, status)
    # It counts where it was due, not where it ended.
    made(0.95, 0.19, 200)
    assert (made.due, made.good) == ([7, 0], [2, 0])
    assert made.ends == {200: 3, 429: 1, 504: 1, -1: 1, 0: 1}


def test_recovery_is_when_every_further_second_is_well() -> None:
    assert recovery(seen((100, 3), (50, 50), (50, 49)), 1) == 0.0
    assert recovery(seen((100, 3), (50, 48), (50, 50)), 1) == 1.0
    # A good second before a bad one is no recovery.
    assert recovery(seen((100, 3), (50, 50), (50, 10), (50, 50)), 1) == 2.0
    assert recovery(seen((100, 3), (50, 50), (50, 0)), 1) == math.inf
    assert recovery(seen((0, 0), (0, 0)), 1) == math.inf
