"""The rules of each model under the policy in force, worked out once per policy."""

from collections.abc import Callable

from edge_agent.control.applied import PolicyHolder
from shared.protocol.policy import Policy, Rules, rules_for

RULES_KEPT = 256
"""Callers can make up names of models."""


class RulesInForce:
    """Owner of what was worked out."""

    def __init__(self, holder: PolicyHolder, *, changed: Callable[[], None]) -> None:
        """`changed` is called before the first request under another policy is decided."""
        self._holder = holder
        self._changed = changed
        self._policy: Policy | None = None
        self._rules: dict[str, Rules] = {}

    def of(self, model: str) -> Rules:
        """The rules of `model` now."""
        policy = self._holder.policy
        if policy is not self._policy:
            self._policy, self._rules = policy, {}
            self._changed()
        rules = self._rules.get(model)
        if rules is None:
            if len(self._rules) >= RULES_KEPT:
                self._rules = {}
            rules = self._rules[model] = rules_for(policy, model)
        return rules
