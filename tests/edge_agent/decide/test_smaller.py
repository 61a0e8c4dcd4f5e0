import pytest

from edge_agent.decide.routing import Ask, Local, LocalState, Reason
from edge_agent.decide.smaller import instead, may_stand_in
from shared.bundle.manifest import TaskKind
from shared.protocol.policy import Rules, policy_of, rules_for

NOW = 1000.0
IDLE = LocalState(expected_wait=0.1, service=0.1)


def rules(**more: object) -> Rules:
    return rules_for(policy_of({"on_overload": "smaller-model", "smaller_model": "small", **more}), "any")


def ask(left: float = 1.0, *tags: str) -> Ask:
    return Ask(deadline=NOW + left, privacy=frozenset(tags))


def test_it_answers_where_it_is_in_time_also_what_is_private() -> None:
    assert instead(ask(), IDLE, rules(), now=NOW) == Local(Reason.SMALLER_MODEL)
    assert instead(ask(1.0, "local-only"), IDLE, rules(mode="local-only"), now=NOW) == Local(Reason.SMALLER_MODEL)


@pytest.mark.parametrize(
    ("asked", "local", "policy"),
    [
        (ask(0.2), IDLE, {}),
        (ask(0.0), IDLE, {}),
        (ask(), None, {}),
        (ask(), LocalState(expected_wait=0.0, service=0.1, full=True), {}),
        (ask(), IDLE, {"mode": "cloud-only"}),
        (ask(), IDLE, {"on_overload": "shed"}),
        (ask(), IDLE, {"on_overload": "cached"}),
    ],
)
def test_where_it_does_not(asked: Ask, local: LocalState | None, policy: dict[str, object]) -> None:
    assert instead(asked, local, rules(**policy), now=NOW) is None


def test_of_the_same_task_and_never_a_vector() -> None:
    label, vector = TaskKind.TEXT_CLASSIFICATION, TaskKind.TEXT_EMBEDDING
    assert may_stand_in(label, label)
    assert not may_stand_in(label, TaskKind.TOKEN_CLASSIFICATION)
    assert not may_stand_in(vector, vector)
    assert not may_stand_in(None, label)
    assert not may_stand_in(None, None)
