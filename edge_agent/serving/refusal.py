"""What a caller is told when routing names nobody: the error for each reason."""

from collections.abc import Sequence

from edge_agent.decide.routing import Reason
from shared.protocol.errors import Overloaded, Refused, TidelineError, Transient, Unavailable
from shared.serving.catalog import Listed, pick
from shared.serving.decide.admission import spread

LATER_S = 1.0


def error_of(reason: Reason, retry_after: float | None, *, local: bool, u: float) -> TidelineError:
    """The error; `local` says whether the device could answer but for its load, `u`, from [0, 1), spreads those who come back."""
    later = spread(LATER_S if retry_after is None else retry_after, u=u)
    match reason:
        case Reason.EXPIRED:
            return Transient("the deadline passed before anything was done", why=Unavailable.DEADLINE)
        case Reason.LOCAL_ABSENT:
            return Transient(
                "the request may not leave the device, which does not serve the model",
                why=Unavailable.NOT_READY,
                retry_after=later,
            )
        case Reason.BUDGET_EXHAUSTED | Reason.CLOUD_SATURATED | Reason.RETRIES_EXHAUSTED | Reason.BOTH_LATE:
            return Overloaded(f"nobody can answer in time ({reason.value})", retry_after=later, code=reason.value)
        case _ if local:
            text = f"the device is saturated and the cloud is no way out ({reason.value})"
            return Overloaded(text, retry_after=later, code=reason.value)
        case _:
            text = f"only the cloud could answer ({reason.value})"
            return Transient(text, why=Unavailable.UNREACHABLE, retry_after=later)


def missing(models: Sequence[Listed], name: str, version: str | None) -> TidelineError:
    """Why the device does not serve a model: 404 with what there is, or 503 with the state it is in."""
    try:
        listed = pick(models, name, version)
    except Refused as error:
        return error
    text = f"model {listed.name}@{listed.version} is {listed.state.value}"
    return Transient(text, why=Unavailable.NOT_READY, retry_after=LATER_S)
