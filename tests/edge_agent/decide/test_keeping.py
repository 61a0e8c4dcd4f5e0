"""How firmly a generation's versions are held in memory."""

import pytest

from edge_agent.decide.keeping import keeps
from shared.protocol.policy import Mode, Override, Policy
from shared.serving.decide.residency import Keep
from tests.edge_agent.control.generations import generation, ref

MODELS = (ref("1" * 64, "a"), ref("2" * 64, "b"), ref("3" * 64, "b", "2.0.0"))
A, B1, B2 = ("a", "1.0.0"), ("b", "1.0.0"), ("b", "2.0.0")


@pytest.mark.parametrize(
    ("policy", "pinned", "expected"),
    [
        (Policy(), (), {}),
        (Policy(mode=Mode.LOCAL_ONLY), (), {A: Keep.LAST, B1: Keep.LAST, B2: Keep.LAST}),
        (Policy(models={"a": Override(mode=Mode.LOCAL_ONLY)}), (), {A: Keep.LAST}),
        (Policy(mode=Mode.LOCAL_ONLY), ("b",), {A: Keep.LAST, B1: Keep.PINNED, B2: Keep.PINNED}),
        (Policy(models={"b": Override(shadow="2.0.0")}), ("b", "unknown"), {B1: Keep.PINNED}),
        (Policy(mode=Mode.LOCAL_ONLY, models={"b": Override(mode=Mode.FASTEST)}), (), {A: Keep.LAST}),
    ],
)
def test_what_only_this_device_answers_goes_last_and_what_its_owner_names_never(policy, pinned, expected):
    assert keeps(generation(1, *MODELS, policy=policy), pinned) == expected
