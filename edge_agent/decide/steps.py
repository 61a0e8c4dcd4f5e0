"""What to do next so that a device runs its newest generation: one step at a time, from what is observed now.

Nothing is remembered between steps: a crash anywhere is resumed because the next observation says how far things are.
Invariants:

* the generation is swapped in only when every model of it is loaded and warm, so the one that answers is always whole;
* what the answering generation and the one before it need stays on disk;
* what could not be got `FETCHES` times, did not install or load `FAILURES` times, or in whose loading the agent died `CRASHES`
  times, is not tried again: the device cleans up and gives up, and the current generation keeps answering, or answers again. For
  bytes that could not be got a new generation is a new chance; a variant that failed in running keeps what it failed with;
* a generation that did not pass its probation is given up too, and was rolled back before.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum

import msgspec

from edge_agent.decide.blame import (
    COLLECTING,
    CRASHES,
    FETCH_CRASHES,
    FETCHES,
    Failure,
    assembly,
    hopeless,
    removal,
    subject,
    trial,
)
from edge_agent.decide.variants import Device, choose_variants
from shared.bundle.chunks import chunks_of, missing, space_for
from shared.bundle.manifest import Manifest
from shared.protocol.desired import Generation, ModelRef
from shared.protocol.reported import ModelState


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
    SHORT = "disk-too-small"
    CONVERGED = "converged"
    QUARANTINED = "quarantined"
    UNFIT = "unfit"
    MISMATCH = "manifest-of-another-model"
    ROLLED_BACK = "rolled-back"


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


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    """How things are.

    `current` answers in this process; `kept` are digests whose bundles stay on disk besides those desired (of the applied and
    the previous generation). `manifests` are those held, of desired and kept digests. `chunks` are all digests in the
    chunk store, manifests included. `loaded` is by (name, version), `failures` by `subject`. `advised` are the variants that were
    measured best here, by digest, as far as choosing them costs nothing. `unproved`: the current generation is on probation.
    `room`: how many bytes more may go on the disk.
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
    unproved: bool = False
    room: int | None = None


def next_step(desired: Generation, observed: Observed) -> Step:
    """The one step that brings the device nearer to `desired`; `Done` or `GiveUp` when there is none."""
    failures = observed.failures
    if (tried := _tried(desired, observed)) is not None:
        return _give_up(*tried, desired, observed)
    for model in desired.models:
        if (error := hopeless(model.digest, failures, most=FETCHES, crashes=FETCH_CRASHES)) is not None:
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
        for about in (subject(model.digest, variants[model.digest]), assembly(model.digest, variants[model.digest])):
            if (error := hopeless(about, failures)) is not None:
                return _give_up(Why.QUARANTINED, model, error, desired, observed)
    return (
        _staging(desired, variants, observed)
        or _loading(desired, variants, observed)
        or _swapping(desired, variants, observed)
        or _unloading(desired.models, observed)
        or (None if observed.unproved else _collecting(desired.models, observed))
        or Done()
    )


def _tried(desired: Generation, observed: Observed) -> tuple[Why, ModelRef, str] | None:
    """Why a generation as a whole is not tried again, and which of its models is to blame for that."""
    failure, current = observed.failures.get(trial(desired.order)), observed.current
    if failure is None or not desired.models:
        return None
    blamed = next((model for model in desired.models if _blamed(model, observed)), desired.models[0])
    if failure.failed:
        return Why.ROLLED_BACK, blamed, failure.error
    # What answers stays until it is judged, whatever it took to get there.
    answers = current is not None and current.order == desired.order
    return None if answers or failure.crashed < CRASHES else (Why.QUARANTINED, blamed, failure.error)


def _blamed(model: ModelRef, observed: Observed) -> bool:
    return any(about.startswith(model.digest) for about in observed.failures)


def _staging(desired: Generation, variants: Mapping[str, str], observed: Observed) -> Step | None:
    absent = [model for model in desired.models if (model.digest, variants[model.digest]) not in observed.installed]
    for model in absent:
        files = observed.manifests[model.digest].files_of(variants[model.digest])
        if wanted := missing(files, observed.chunks):
            short = observed.room is not None and space_for(files, wanted) > observed.room
            if short and (collect := _making_room(desired, observed)) is not None:
                return collect
            return Fetch(model=model, variant=variants[model.digest], reason=Why.MISSING_CHUNKS)
    for model in absent:
        return Install(model=model, variant=variants[model.digest])
    return None


def _making_room(desired: Generation, observed: Observed) -> Collect | None:
    """What goes where the disk is too small: all but the one that answers, and the one before it while it may be needed."""
    if observed.unproved:
        return None
    current = observed.current.models if observed.current is not None else ()
    found = _collecting((*desired.models, *current), msgspec.structs.replace(observed, kept=frozenset()))
    return None if found is None else msgspec.structs.replace(found, reason=Why.SHORT)


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
        if (name, version) not in stay and hopeless(removal(name, version), observed.failures) is None:
            return Unload(name=name, version=version, digest=loaded.digest)
    return None


def _collecting(
    wanted: Iterable[ModelRef], observed: Observed, manifests: frozenset[str] = frozenset()
) -> Collect | None:
    """`manifests` are kept without the files they name."""
    if hopeless(COLLECTING, observed.failures) is not None:
        return None
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
        and hopeless(subject(model.digest, variants[model.digest]), observed.failures) is None
    )
    return _loading(msgspec.structs.replace(current, models=able), variants, observed)
