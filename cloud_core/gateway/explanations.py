"""Why a request went where it went: the newest few thousand, for `GET /v1/why/{request_id}`. Ids and numbers, never inputs."""

from collections import OrderedDict

import msgspec

from shared.protocol.errors import Refusal, Refused


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One try: the replica or None, the balancer's reason, each candidate's outstanding tokens, and how it ended."""

    replica: str | None
    reason: str
    outstanding: dict[str, float]
    outcome: str
    seconds: float


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """One request. `at` is Unix seconds, `cost` predicted tokens, `deadline_in` the seconds it had left on arrival."""

    request_id: str
    tenant: str
    model: str
    version: str
    at: float
    cost: float
    deadline_in: float
    outcome: str
    attempts: tuple[Attempt, ...]
    where: str = "cloud"


class Explanations:
    """A bounded ring by (tenant, request id)."""

    def __init__(self, capacity: int = 4096) -> None:
        self._capacity = capacity
        self._kept: OrderedDict[tuple[str, str], Explanation] = OrderedDict()

    def keep(self, explanation: Explanation) -> None:
        """Remember this one; the oldest is forgotten."""
        key = (explanation.tenant, explanation.request_id)
        self._kept.pop(key, None)
        self._kept[key] = explanation
        if len(self._kept) > self._capacity:
            self._kept.popitem(last=False)

    def find(self, tenant: str, request_id: str) -> Explanation:
        """The explanation of one of the tenant's requests.

        Raises:
            Refused: not known, or not any more.

        """
        found = self._kept.get((tenant, request_id))
        if found is None:
            raise Refused(
                "no such request, or it was too long ago",
                kind=Refusal.NOT_FOUND,
                field="request_id",
                value=request_id,
                allowed=f"one of the newest {self._capacity}",
            )
        return found
