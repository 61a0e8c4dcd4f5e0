"""Why a request went where it went: the newest few thousand, for `GET /v1/why/{request_id}`. Ids and numbers, never inputs."""

import msgspec

from shared.serving.stories import Stories


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
        self._stories: Stories[tuple[str, str], Explanation] = Stories(capacity)

    def keep(self, explanation: Explanation) -> None:
        """Remember this one; the oldest is forgotten."""
        self._stories.remember((explanation.tenant, explanation.request_id), explanation)

    def find(self, tenant: str, request_id: str) -> Explanation:
        """The explanation of one of the tenant's requests.

        Raises:
            Refused: not known, or not any more.

        """
        return self._stories.find((tenant, request_id), request_id)
