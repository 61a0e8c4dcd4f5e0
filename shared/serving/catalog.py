"""What a process can answer with: the second port every face takes, beside `Answer`.

An engine lists what it has loaded, an edge's router what it can reach, the gateway what its replicas serve.
"""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from shared.bundle.manifest import TaskKind, TensorSpec
from shared.protocol.errors import Refusal, Refused
from shared.protocol.reported import ModelState
from shared.serving.arrangement import ONNXRUNTIME


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """One model version as faces see it. `active`: unversioned requests get it. `reason` says why it is not ready.

    `inputs` and `outputs` are those of the program; faces of text models speak `text` and named results instead.
    `batch_invariant`: an answer does not depend on what else was computed with it. `resident`: a ready version's program is in
    memory, and not to be brought back first; None where that is not known. `max_batch_size`: rows of several requests of tensors are
    computed together, at most so many; 0 where each request is computed alone. `runtime`: what runs the program (`Arrangement`).
    """

    tenant: str
    name: str
    version: str
    task: TaskKind
    state: ModelState
    variant: str = ""
    digest: str = ""
    active: bool = False
    reason: str = ""
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    labels: tuple[str, ...] = ()
    max_length: int = 0
    batch_invariant: bool = True
    resident: bool | None = None
    max_batch_size: int = 0
    runtime: str = ONNXRUNTIME

    @property
    def is_text(self) -> bool:
        """Whether it takes texts rather than tensors."""
        return self.task is not TaskKind.TENSOR


class Duration(msgspec.Struct, frozen=True, kw_only=True):
    """How often, and nanoseconds in all (Open Inference Protocol, statistics extension)."""

    count: int = 0
    ns: int = 0


class Statistics(msgspec.Struct, frozen=True, kw_only=True):
    """Counters of one model version since it was loaded. `batches` maps a batch size to its computations.

    `cache_hit` counts what a response cache answered instead, which is in `success` too; `cache_miss` what it had to pass on.
    """

    inferences: int = 0
    executions: int = 0
    last_ms: int = 0
    success: Duration = Duration()
    fail: Duration = Duration()
    queue: Duration = Duration()
    compute: Duration = Duration()
    batches: dict[int, Duration] = {}
    resident_bytes: int | None = None
    """What its program takes of memory now, 0 while it is not there; None where that is not known."""
    cache_hit: Duration = Duration()
    cache_miss: Duration = Duration()


class Catalog(Protocol):
    """The port."""

    def models(self, tenant: str | None = None) -> Sequence[Listed]:
        """Every version known for `tenant`; None for all tenants."""
        ...

    def statistics(self, tenant: str, name: str, version: str) -> Statistics:
        """Counters of one version; all zero where nothing is known."""
        ...


def pick(models: Sequence[Listed], name: str, version: str | None = None, *, field: str = "model") -> Listed:
    """The version a request for `name` (and `version`, or the active one) means, ready or not.

    Raises:
        Refused: no such model or version (404); says which there are.

    """
    versions = [model for model in models if model.name == name]
    if not versions:
        allowed = ", ".join(sorted({model.name for model in models})) or "no model is loaded"
        raise Refused("unknown model", kind=Refusal.NOT_FOUND, field=field, value=name, allowed=allowed)
    if version is not None:
        for model in versions:
            if model.version == version:
                return model
        allowed = ", ".join(sorted(model.version for model in versions))
        raise Refused(
            f"unknown version of model {name}", kind=Refusal.NOT_FOUND, field="version", value=version, allowed=allowed
        )
    for model in versions:
        if model.active:
            return model
    return max(versions, key=lambda model: (model.state is ModelState.READY, order_of(model.version)))


def order_of(version: str) -> tuple[tuple[int, ...], bool, str]:
    """Sorts semantic versions: numbers first, a release after its pre-releases."""
    core, _, pre = version.partition("+")[0].partition("-")
    numbers = tuple(int(part) if part.isdigit() else 0 for part in core.split("."))
    return numbers, not pre, pre
