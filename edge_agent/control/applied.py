"""Which generation answers requests in this process: one owner, read by the router on every request.

Invariant: it changes together with the models that answer, with no `await` between, so no request sees the policy of one
generation and the models of another.
"""

from shared.protocol.desired import Generation, Order
from shared.protocol.policy import Policy


class PolicyHolder:
    """The answering generation; the default policy until there is one."""

    def __init__(self) -> None:
        self._generation: Generation | None = None
        self._default = Policy()

    @property
    def generation(self) -> Generation | None:
        """The generation that answers; None before the first."""
        return self._generation

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self._default if self._generation is None else self._generation.policy

    @property
    def order(self) -> Order | None:
        """The order of the generation that answers."""
        return None if self._generation is None else self._generation.order

    @property
    def issued_at(self) -> float:
        """When the policy in force was signed, Unix seconds; 0 before the first."""
        return 0.0 if self._generation is None else self._generation.issued_at

    def set(self, generation: Generation) -> None:
        """Put `generation` in force. Only the converger calls this, in the same breath as it activates the models."""
        self._generation = generation
