"""One request on its way: what was known, what was decided, who was asked, and how it ended."""

import msgspec

from edge_agent.decide.routing import Ask, Cached, Cloud, CloudState, Local, LocalState, Reason, Refuse, is_private
from edge_agent.serving.confidence import confidence_of
from edge_agent.serving.kept_answers import Lookup
from shared.protocol.desired import Generation
from shared.protocol.errors import TidelineError
from shared.protocol.policy import Rules
from shared.protocol.why import Attempt, Prediction, Why
from shared.serving.answer import Request, Response

NOWHERE = "none"
UNKNOWN = "unknown"


class Trip:
    """Lives as long as its request.

    `hedged`: the other place was asked while the first had not answered. `known`: the device serves the model, so its name may be
    a label. `lookup`: its place among kept answers, where it has one.
    """

    def __init__(
        self,
        request: Request,
        *,
        rules: Rules,
        ask: Ask,
        began: float,
        at: float,
        known: bool,
        generation: Generation | None,
    ) -> None:
        self.request = request
        self.rules = rules
        self.ask = ask
        self.began = began
        self.known = known
        self.local: LocalState | None = None
        self.lookup: Lookup | None = None
        self.verdict: Local | Cloud | Cached | Refuse = Refuse(Reason.EXPIRED)
        self.attempts: list[Attempt] = []
        self.failure: TidelineError | None = None
        self.hedged = False
        self.compared: tuple[str, str] | None = None
        self._at = at
        self._generation = generation
        self._cloud: CloudState | None = None
        self._breaker = ""
        self._where: str | None = None
        self._outcome = ""
        self._by: tuple[str, str, str] | None = None

    def decided(
        self,
        verdict: Local | Cloud | Cached | Refuse,
        local: LocalState | None,
        cloud: CloudState | None,
        *,
        breaker: str,
    ) -> None:
        """The first decision, with what it was made from; `cloud` is None where it was not looked at."""
        self.verdict = verdict
        self.local = local
        self._cloud = cloud
        self._breaker = breaker

    @property
    def cloud_completion(self) -> float:
        """Seconds the cloud was predicted to take when it was decided; 0 where it was not looked at."""
        return 0.0 if self._cloud is None else self._cloud.completion

    @property
    def place(self) -> str:
        """Where the first decision sent it."""
        match self.verdict:
            case Local():
                return "local"
            case Cloud():
                return "cloud"
            case Cached():
                return "cache"
            case Refuse():
                return NOWHERE

    def attempted(
        self,
        where: str,
        reason: Reason,
        outcome: str,
        seconds: float,
        *,
        began: float,
        error: str | None = None,
        answer: Response | None = None,
    ) -> None:
        """One place was asked at `began`, monotonic seconds; `answer` is what it said."""
        # Looked at only where the policy does.
        weighed = answer if self.rules.confidence_below is not None else None
        self.attempts.append(
            Attempt(
                where=where,
                reason=reason.value,
                outcome=outcome,
                ms=_ms(seconds),
                after_ms=_ms(began - self.began),
                by=None if answer is None else f"{answer.model}@{answer.version}/{answer.variant}",
                confidence=None if weighed is None else confidence_of(weighed.results),
                error=error,
            )
        )

    def ended(self, *, where: str | None, outcome: str, by: tuple[str, str, str] | None = None) -> None:
        """It is over; what was asked is forgotten, since stories are kept long after."""
        self._where, self._outcome, self._by = where, outcome, by
        self.request = msgspec.structs.replace(self.request, texts=None, tensors=None, parameters={})
        self.lookup = self.failure = None

    def story(self) -> Why:
        """All of it, for `GET /v1/why`."""
        cloud, local, generation = self._cloud or CloudState(permitted=False), self.local, self._generation
        deadline = self.ask.deadline - self.began
        return Why(
            request_id=self.request.id,
            at=self._at,
            model=self.request.model,
            version=self.request.version,
            mode=self.rules.mode.value,
            private=is_private(self.ask, self.rules),
            deadline_ms=_ms(deadline),
            generation=None if generation is None else (generation.epoch, generation.number),
            policy_name=None if generation is None else generation.policy_name,
            policy_revision=None if generation is None else generation.policy_revision,
            decision=self.place,
            reason=self.verdict.reason.value,
            predicted=Prediction(
                local_wait_ms=None if local is None else _ms(local.expected_wait),
                local_compute_ms=None if local is None else _ms(local.service),
                cloud_ms=None if cloud.estimate is None else _ms(cloud.estimate),
                cloud_permitted=cloud.permitted,
                cloud_announced_wait_ms=_ms(cloud.announced_wait),
                cloud_budget_left=cloud.budget_left,
                breaker=self._breaker,
                policy_age_s=round(cloud.policy_age, 3),
            ),
            attempts=tuple(sorted(self.attempts, key=_asked_at)),
            where=self._where,
            outcome=self._outcome,
            compared=None if self.compared is None else "{} ({})".format(*self.compared),
            answered_by=None if self._by is None else "{}@{}/{}".format(*self._by),
        )


def _asked_at(attempt: Attempt) -> float:
    return attempt.after_ms


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 3)
