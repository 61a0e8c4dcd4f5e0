"""What the device reports of its way to the newest generation: always the whole, from what is held and what is being done."""

from collections.abc import Sequence

import msgspec

from edge_agent.decide.steps import Fetch, Install, Load, Step, active_versions
from shared.protocol.desired import Generation, ModelRef
from shared.protocol.errors import Refusal, Refused
from shared.protocol.reported import Convergence, ModelReport, ModelState, Reported
from shared.serving.catalog import Listed


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """How far convergence is. `progress` is 0 to 1 within `step`; `failed` are the digests it was given up for."""

    convergence: Convergence = Convergence.CONVERGING
    step: Step | None = None
    progress: float | None = None
    failed: frozenset[str] = frozenset()
    error: str | None = None


def report_of(
    target: Generation | None,
    current: Generation | None,
    loaded: Sequence[Listed],
    standing: Standing,
    refusal: Refused | None,
    *,
    now: float,
) -> Reported:
    """The whole report; `current` answers, `target` is the newest accepted generation. Epoch and sequence are the link's."""
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
        error=standing.error if doing is not None or model.digest in standing.failed else None,
    )


def _words(step: Step) -> str:
    """`fetch sentiment-zh 1.0.0`, say."""
    name = type(step).__name__.lower()
    model = getattr(step, "model", None)
    return f"{name} {model.name} {model.version}" if isinstance(model, ModelRef) else name
