"""What to do next so that a device runs its newest generation: one step at a time, from what is observed now.

Nothing is remembered between steps: a crash anywhere is resumed because the next observation says how far things are.
Invariants:

* the generation is swapped in only when every model of it is loaded and warm, so the one that answers is always whole;
* what the answering generation and the one before it need stays on disk;
* what could not be got `FETCHES` times, did not install or load `FAILURES` times, or in whose loading the agent died `CRASHES`
  times, is not tried again until a new generation comes: the device cleans up and gives up, and the current generation
  keeps answering, or answers again.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum

import msgspec

from edge_agent.decide.variants import Device, choose_variants
from shared.bundle.chunks import chunks_of, missing
from shared.bundle.manifest import Manifest
from shared.protocol.desired import Generation, ModelRef
from shared.protocol.policy import rules_for
from shared.protocol.reported import ModelState

FETCHES = 5
"""More than `FAILURES`: a proxy on the way may be what is wrong."""
FAILURES = 2
CRASHES = 3


class Why(StrEnum):
    """Why a step is next."""

    NO_MANIFEST = "no-manifest"
    MISSING_CHUNKS = "missing-chunks"
    NOT_INSTALLED = "not-installed"
    NOT_LOADED = "not-loaded"
    NOT_READY = "not-ready"
    OTHER_BYTES = "same-version-of-other-bytes"
    ALL_READY = "all-ready"
    NOT_WANTED = "not-wanted"
    UNREFERENCED = "unreferenced"
    CONVERGED = "converged"
    QUARANTINED = "quarantined"
    UNFIT = "unfit"
    MISMATCH = "manifest-of-another-model"


class Fetch(msgspec.Struct, frozen=True, kw_only=True):
    """Get the manifest (`variant` None) or the missing chunks of a variant."""

    model: ModelRef
    variant: str | None
    reason: Why


class Install(msgspec.Struct, frozen=True, kw_only=True):
    """Assemble a variant from its chunks."""

    model: ModelRef
    variant: str
    reason: Why = Why.NOT_INSTALLED


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """Verify the installed variant, load it beside what runs, and warm it until it answers as it should."""

    model: ModelRef
    variant: str
    reason: Why = Why.NOT_LOADED


class Swap(msgspec.Struct, frozen=True, kw_only=True):
    """Let `generation` answer from now on: its models and its policy, in one move."""

    generation: Generation
    variants: dict[str, str]
    reason: Why = Why.ALL_READY


class Unload(msgspec.Struct, frozen=True, kw_only=True):
    """Drain a loaded version and give its memory back."""

    name: str
    version: str
    digest: str
    reason: Why = Why.NOT_WANTED


class Collect(msgspec.Struct, frozen=True, kw_only=True):
    """Remove what nothing refers to: installed bundles by (digest, variant), and chunks."""

    bundles: frozenset[tuple[str, str]]
    chunks: frozenset[str]
    reason: Why = Why.UNREFERENCED


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """The generation answers and nothing is left over."""

    reason: Why = Why.CONVERGED


class GiveUp(msgspec.Struct, frozen=True, kw_only=True):
    """The generation cannot be reached; `digest` is the version it fails on."""

    reason: Why
    digest: str
    error: str


Step = Fetch | Install | Load | Swap | Unload | Collect | Done | GiveUp


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """What is in memory as some name and version."""

    digest: str
    variant: str
    state: ModelState


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """How often something failed, how often the agent died of it, and the last error."""

    failed: int
    crashed: int
    error: str


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    """How things are.

    `current` answers in this process; `kept` are digests whose bundles stay on disk besides those desired (of the applied and
    the previous generation). `manifests` are those held, of desired and kept digests. `chunks` are all digests in the
    chunk store, manifests included. `loaded` is by (name, version), `failures` by `subject`. `advised` are the variants that were
    measured best here, by digest, as far as choosing them costs nothing.
    """

    device: Device
    current: Generation | None = None
    kept: frozenset[str] = frozenset()
    manifests: Mapping[str, Manifest] = {}
    chunks: frozenset[str] = frozenset()
    installed: frozenset[tuple[str, str]] = frozenset()
    loaded: Mapping[tuple[str, str], Loaded] = {}
    failures: Mapping[str, Failure] = {}
    advised: Mapping[str, str] = {}


def next_step(desired: Generation, observed: Observed) -> Step:
    """The one step that brings the device nearer to `desired`; `Done` or `GiveUp` when there is none."""
    for model in desired.models:
        if (error := _hopeless(model.digest, observed, FETCHES)) is not None:
            return _give_up(Why.QUARANTINED, model, error, desired, observed)
    for model in desired.models:
        manifest = observed.manifests.get(model.digest)
        if manifest is None:
            return Fetch(model=model, variant=None, reason=Why.NO_MANIFEST)
        if (manifest.name, manifest.version) != (model.name, model.version):
            error = f"{model.name} {model.version} names the manifest of {manifest.name} {manifest.version}"
            return _give_up(Why.MISMATCH, model, error, desired, observed)
    variants = choose_variants(desired.models, observed.manifests, observed.device, observed.advised)
    if isinstance(variants, tuple):
        model, unfit = variants
        return _give_up(Why.UNFIT, model, f"{unfit.reason}: {unfit.detail}", desired, observed)
    for model in desired.models:
        if (error := _hopeless(subject(model.digest, variants[model.digest]), observed)) is not None:
            return _give_up(Why.QUARANTINED, model, error, desired, observed)
    return (
        _staging(desired, variants, observed)
        or _loading(desired, variants, observed)
        or _swapping(desired, variants, observed)
        or _unloading(desired.models, observed)
        or _collecting(desired.models, observed)
        or Done()
    )


def subject(digest: str, variant: str | None = None) -> str:
    """What a failure speaks against: getting a version at all, or running one variant of it."""
    return digest if variant is None else f"{digest}-{variant}"


def active_versions(generation: Generation) -> dict[str, str]:
    """Which version of each model answers requests that name none: the largest share of a split, else the first listed.

    A shadow version never answers.
    """
    active: dict[str, str] = {}
    for name in dict.fromkeys(model.name for model in generation.models):
        rules = rules_for(generation.policy, name)
        versions = [model.version for model in generation.models if model.name == name]
        answering = [version for version in versions if version != rules.shadow] or versions
        shares = rules.split or {}
        active[name] = max(answering, key=lambda version: shares.get(version, 0.0))
    return active


def _hopeless(subject: str, observed: Observed, most: int = FAILURES) -> str | None:
    failure = observed.failures.get(subject)
    if failure is not None and (failure.failed >= most or failure.crashed >= CRASHES):
        return failure.error
    return None


def _staging(desired: Generation, variants: Mapping[str, str], observed: Observed) -> Step | None:
    absent = [model for model in desired.models if (model.digest, variants[model.digest]) not in observed.installed]
    for model in absent:
        files = observed.manifests[model.digest].files_of(variants[model.digest])
        if missing(files, observed.chunks):
            return Fetch(model=model, variant=variants[model.digest], reason=Why.MISSING_CHUNKS)
    for model in absent:
        return Install(model=model, variant=variants[model.digest])
    return None


def _loading(generation: Generation, variants: Mapping[str, str], observed: Observed) -> Step | None:
    for model in generation.models:
        variant, loaded = variants[model.digest], observed.loaded.get((model.name, model.version))
        if loaded is None:
            return Load(model=model, variant=variant)
        if (loaded.digest, loaded.variant) != (model.digest, variant):
            # A version is in memory once: another variant of it has to go first.
            return Unload(name=model.name, version=model.version, digest=loaded.digest, reason=Why.OTHER_BYTES)
        if loaded.state is not ModelState.READY:
            return Load(model=model, variant=variant, reason=Why.NOT_READY)
    return None


def _swapping(desired: Generation, variants: dict[str, str], observed: Observed) -> Step | None:
    if observed.current is None or observed.current.order != desired.order:
        return Swap(generation=desired, variants=variants)
    return None


def _unloading(wanted: Iterable[ModelRef], observed: Observed) -> Step | None:
    stay = {(model.name, model.version) for model in wanted}
    for (name, version), loaded in observed.loaded.items():
        if (name, version) not in stay:
            return Unload(name=name, version=version, digest=loaded.digest)
    return None


def _collecting(wanted: Iterable[ModelRef], observed: Observed, manifests: frozenset[str] = frozenset()) -> Step | None:
    """`manifests` are kept without the files they name."""
    digests = observed.kept | {model.digest for model in wanted}
    bundles = frozenset(key for key in observed.installed if key[0] not in digests)
    needed = {*digests, *manifests}
    for digest in digests:
        if (manifest := observed.manifests.get(digest)) is not None:
            needed |= {chunk.digest for chunk in chunks_of(manifest.files)}
    chunks = observed.chunks - needed
    return Collect(bundles=bundles, chunks=chunks) if bundles or chunks else None


def _give_up(reason: Why, model: ModelRef, error: str, desired: Generation, observed: Observed) -> Step:
    """What the hopeless generation brought goes first: memory and disk belong to the one that answers.

    Its manifests stay: they are the reason to give up, and without them it would all begin again.
    """
    current = observed.current
    stay = current.models if current is not None else ()
    manifests = frozenset(model.digest for model in desired.models)
    return (
        _unloading(stay, observed)
        or _returning(current, observed)
        or _collecting(stay, observed, manifests)
        or GiveUp(reason=reason, digest=model.digest, error=error)
    )


def _returning(current: Generation | None, observed: Observed) -> Step | None:
    """Back into memory with what the current generation lost to another variant of the same version."""
    if current is None or any(model.digest not in observed.manifests for model in current.models):
        return None
    variants = choose_variants(current.models, observed.manifests, observed.device)
    if isinstance(variants, tuple):
        return None
    able = tuple(
        model
        for model in current.models
        if (model.digest, variants[model.digest]) in observed.installed
        and _hopeless(subject(model.digest, variants[model.digest]), observed) is None
    )
    return _loading(msgspec.structs.replace(current, models=able), variants, observed)
