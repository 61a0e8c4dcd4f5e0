"""A smaller model instead of none, where nobody can answer in time and the policy says so.  Pure.

It answers on the device alone, also what is private; and only in time. A vector of another model means nothing beside those of the one
that was asked, so embeddings are never substituted.
"""

from edge_agent.decide.routing import Ask, Local, LocalState, Reason
from shared.bundle.manifest import TaskKind
from shared.protocol.policy import Rules

NEVER = frozenset({TaskKind.TEXT_EMBEDDING})


def instead(ask: Ask, local: LocalState | None, rules: Rules, *, now: float) -> Local | None:
    """Whether the smaller model answers; `local` is what the device predicts for it, None where it does not serve it."""
    if rules.smaller is None or local is None or local.full or now + local.completion >= ask.deadline:
        return None
    return Local(Reason.SMALLER_MODEL)


def may_stand_in(asked: TaskKind | None, smaller: TaskKind | None) -> bool:
    """Whether answers of the one mean what those of the other do; None is a model that the device does not know."""
    return asked is not None and asked is smaller and asked not in NEVER
