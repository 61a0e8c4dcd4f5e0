"""What the device reports of its way to the newest generation: always the whole, from what is held and what is being done."""

from collections.abc import Callable, Sequence

import msgspec

from edge_agent.decide.answering import active_versions
from edge_agent.decide.steps import Fetch, GiveUp, Install, Load, Step, Why
from shared.io.clock import Clock
from shared.io.logs import Log
from shared.protocol.desired import Generation, ModelRef
from shared.protocol.errors import Refusal, Refused
from shared.protocol.reported import Convergence, ModelReport, ModelState, Outcome, Reported
from shared.serving.catalog import Listed


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """How far convergence is. `progress` is 0 to 1 within `step`; `failed` are the digests it was given up for."""

    convergence: Convergence = Convergence.CONVERGING
    step: Step | None = None
    progress: float | None = None
    bytes_per_s: float | None = None
    seconds_left: float | None = None
    failed: frozenset[str] = frozenset()
    outcome: Outcome | None = None
    error: str | None = None


class Told:
    """Owner of what there is to say: how convergence stands, and why the last message was not accepted, until one is."""

    def __init__(self, changed: Callable[[], None], log: Log, clock: Clock) -> None:
        """`changed` is called whenever a report would say something new."""
        self.changed = changed
        self.standing = Standing()
        self.refusal: Refused | None = None
        self.refused: dict[str, int] = {}
        """Generations that were not accepted, counted by the code of the refusal."""
        self._log = log
        self._clock = clock
        self._began = 0.0
        """When the step that is being done began."""

    def stand(self, standing: Standing) -> None:
        """How convergence stands from now on."""
        if standing.step is not self.standing.step:
            self._began = self._clock.monotonic()
        self.standing = standing
        self.changed()

    def progress(self, done: int, total: int) -> None:
        """So many bytes of the step are done, of all."""
        seconds = self._clock.monotonic() - self._began
        rate = done / seconds if done and seconds > 0 else None
        self.stand(
            msgspec.structs.replace(
                self.standing,
                progress=done / total if total else 1.0,
                bytes_per_s=rate,
                seconds_left=None if rate is None else (total - done) / rate,
            )
        )

    def refuse(self, error: Refused) -> None:
        """Count what is not accepted. One that came late is what MQTT does; any other is for people to see."""
        self.refused[error.code] = self.refused.get(error.code, 0) + 1
        self._log.error("generation refused", code=error.code, error=error.message)
        if error.kind is not Refusal.CONFLICT:
            self.refusal = error
            self.changed()


def there(*, on_probation: bool) -> Standing:
    """The newest generation answers."""
    outcome = Outcome.PROBATION if on_probation else Outcome.COMMITTED
    return Standing(convergence=Convergence.APPLIED, outcome=outcome)


def given_up(step: GiveUp) -> Standing:
    """The newest generation will not answer: it was gone back from, or never came into force."""
    return Standing(
        convergence=Convergence.FAILED,
        failed=frozenset({step.digest}),
        outcome=Outcome.ROLLED_BACK if step.reason is Why.ROLLED_BACK else Outcome.FAILED,
        error=f"{step.reason.value}: {step.error}",
    )


def report_of(
    target: Generation | None,
    current: Generation | None,
    loaded: Sequence[Listed],
    told: Told,
    *,
    now: float,
) -> Reported:
    """The whole report; `current` answers, `target` is the newest accepted generation. Epoch and sequence are the link's."""
    standing, refusal = told.standing, told.refusal
    convergence = standing.convergence
    if refusal is not None and refusal.kind is not Refusal.FORBIDDEN:
        # Meant for this device and cannot hold. A forged one says nothing of the device: it is only shown.
        convergence = Convergence.REFUSED
    elif target is None:
        convergence = Convergence.NONE if current is None else Convergence.APPLIED
    error = refusal.message if refusal is not None else standing.error
    if error is None and target is not None and now >= target.expires_at:
        error = "the generation has expired; it keeps running"
    return Reported(
        epoch=0,
        seq=0,
        at=now,
        applied=None if current is None else current.order,
        target=None if target is None else target.order,
        convergence=convergence,
        models=_models(target, current, loaded, standing),
        step=None if standing.step is None else _words(standing.step),
        error=error,
        policy_revision=None if current is None else current.policy_revision,
        outcome=standing.outcome,
    )


def _models(
    target: Generation | None, current: Generation | None, loaded: Sequence[Listed], standing: Standing
) -> tuple[ModelReport, ...]:
    active = active_versions(current) if current is not None else {}
    in_memory = {(entry.name, entry.version, entry.digest): entry for entry in loaded}
    wanted: dict[tuple[str, str, str], ModelRef] = {}
    for generation in (target, current):
        for model in generation.models if generation is not None else ():
            wanted.setdefault((model.name, model.version, model.digest), model)
    return tuple(
        _model(model, in_memory.get(key), standing, answers=active.get(model.name) == model.version)
        for key, model in sorted(wanted.items())
    )


def _model(model: ModelRef, entry: Listed | None, standing: Standing, *, answers: bool) -> ModelReport:
    step = standing.step
    doing = step if isinstance(step, Fetch | Install | Load) and step.model.digest == model.digest else None
    state = entry.state if entry is not None else ModelState.ABSENT
    if state is not ModelState.READY:
        match doing:
            case Fetch():
                state = ModelState.FETCHING
            case Install():
                state = ModelState.VERIFYING
            case Load() if state is not ModelState.WARMING:
                state = ModelState.LOADING
            case None if model.digest in standing.failed:
                state = ModelState.FAILED
    return ModelReport(
        name=model.name,
        version=model.version,
        digest=model.digest,
        variant=(entry.variant if entry is not None else None) or model.variant,
        state=state,
        active=answers and state is ModelState.READY,
        progress=standing.progress if doing is not None else None,
        bytes_per_s=standing.bytes_per_s if doing is not None else None,
        seconds_left=standing.seconds_left if doing is not None else None,
        error=standing.error if doing is not None or model.digest in standing.failed else None,
    )


def _words(step: Step) -> str:
    """`fetch sentiment-zh 1.0.0`, say."""
    name = type(step).__name__.lower()
    model = getattr(step, "model", None)
    return f"{name} {model.name} {model.version}" if isinstance(model, ModelRef) else name
