"""Acknowledging: never beyond what is durable or gone for good, whatever is lost, repeated or dropped on the way."""

from hypothesis import given
from hypothesis import strategies as st

from cloud_core.decide.watermark import Advance, advance


def test_the_first_batch_a_repetition_and_a_gap() -> None:
    assert advance(None, first=5, last=9) == Advance(9, 0)
    assert advance(9, first=5, last=9) == Advance(9, 0)
    assert advance(9, first=10, last=12) == Advance(12, 0)
    assert advance(12, first=1, last=3) == Advance(12, 0)
    assert advance(12, first=16, last=16) == Advance(16, 3)


@given(st.lists(st.sampled_from(("write", "send", "lost", "answer-lost", "again", "drop-oldest")), max_size=200))
def test_a_device_that_trims_what_is_acknowledged_loses_nothing_but_what_it_drops(acts: list[str]) -> None:
    """The device's protocol in small: oldest first, nothing newer before it is acknowledged."""
    written, dropped = 0, set[int]()
    holds: list[int] = []
    cloud: set[int] = set()
    watermark: int | None = None
    earlier: list[list[int]] = []

    def deliver(batch: list[int]) -> int:
        nonlocal watermark
        cloud.update(batch)
        watermark = advance(watermark, first=batch[0], last=batch[-1]).seq
        return watermark

    for act in acts:
        batch = holds[:3]
        if act == "write":
            written += 1
            holds.append(written)
        elif act == "drop-oldest" and holds:
            dropped.add(holds.pop(0))
        elif act == "again" and earlier:
            deliver(earlier[len(acts) % len(earlier)])
        elif batch and act in ("send", "answer-lost"):
            earlier.append(batch)
            acked = deliver(batch)
            if act == "send":
                holds = [seq for seq in holds if seq > acked]
    assert cloud | dropped | set(holds) == set(range(1, written + 1))
