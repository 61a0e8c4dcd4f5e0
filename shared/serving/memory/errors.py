"""What a request, or whoever loads a version, is told when a program does not come into memory."""

from shared.protocol.errors import Corrupt, Refusal, Refused, TidelineError, Transient, Unavailable
from shared.protocol.reported import ModelState
from shared.serving.decide.residency import Blocked, Refuse
from shared.serving.versions.loaded import LoadedModel

RETRY_S = 1.0
"""What did not come back is not tried again sooner."""
_NO_MEMORY = ("bad_alloc", "bad allocation", "Failed to allocate", "MemoryError")
"""Of messages of runtimes, whose exceptions do not tell a broken program from a full machine."""


def refusal(model: LoadedModel, refused: Refuse) -> TidelineError:
    """It does not fit: a refusal of a version that is loaded for the first time, for now of one that fitted before."""
    what = f"{model.name}@{model.version}/{model.variant} does not fit into memory"
    beside = " beside what is pinned" if refused.reason is Blocked.PINNED else ""
    if model.state is ModelState.READY:
        message = f"{what}{beside}: it needs {refused.need} B, {refused.most} B can be had"
        return Transient(message, why=Unavailable.NOT_READY, retry_after=RETRY_S)
    allowed = f"{refused.most} B at the most{beside}"
    return Refused(what, kind=Refusal.UNSUPPORTED, field="memory_bytes", value=refused.need, allowed=allowed)


def passing(error: TidelineError) -> TidelineError:
    """The same error, or that it failed for now: a program that was loaded before is not broken because memory ran out."""
    if isinstance(error, Corrupt) and any(word in error.message for word in _NO_MEMORY):
        return Transient(error.message, why=Unavailable.NOT_READY, retry_after=RETRY_S)
    return error
