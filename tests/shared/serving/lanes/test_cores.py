import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.serving.lanes.cores import Cores


class Watch:
    """How many cores are held, and how many ever were at once."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.held = self.most = 0

    def change(self, by: int) -> None:
        with self.lock:
            self.held += by
            self.most = max(self.most, self.held)


@given(
    total=st.integers(1, 4),
    wanted=st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=5), min_size=1, max_size=6),
)
@settings(max_examples=40, deadline=None)
def test_no_more_cores_are_held_than_there_are_and_everybody_gets_a_turn(total, wanted):
    cores, watch, done = Cores(total), Watch(), []

    def run(name, each):
        for n in each:
            with cores.held(n):
                watch.change(min(max(n, 1), total))
                watch.change(-min(max(n, 1), total))
        done.append(name)

    threads = [threading.Thread(target=run, args=(name, each)) for name, each in enumerate(wanted)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(done) == list(range(len(wanted)))
    assert watch.most <= total
    assert watch.held == 0


def test_a_large_run_is_not_overtaken_by_small_ones_that_come_later():
    cores, order = Cores(2), []
    entered, leave = threading.Event(), threading.Event()

    def hold():
        with cores.held(1):
            entered.set()
            leave.wait(30)

    def ask(name, n, waits):
        with cores.held(n):
            order.append(name)
            waits.set()

    holder = threading.Thread(target=hold)
    holder.start()
    entered.wait(30)
    done = [threading.Event() for _ in range(2)]
    large = threading.Thread(target=ask, args=("large", 2, done[0]))
    large.start()
    while not cores._waiting:
        pass
    small = threading.Thread(target=ask, args=("small", 1, done[1]))
    small.start()
    while len(cores._waiting) < 2:
        pass
    leave.set()
    for each in (holder, large, small):
        each.join(30)
    assert order == ["large", "small"]


def test_a_run_that_raises_gives_its_cores_back():
    cores = Cores(1)
    with pytest.raises(ZeroDivisionError), cores.held(1):
        print(1 / 0)
    with cores.held(1):
        pass
