"""Bundles, observations and a simulated world for the tests of steps."""

import msgspec

from edge_agent.decide.blame import Failure, subject
from edge_agent.decide.steps import (
    Collect,
    Done,
    Fetch,
    GiveUp,
    Install,
    Load,
    Loaded,
    Observed,
    Swap,
    Unload,
    next_step,
)
from edge_agent.decide.variants import Device, choose_variants
from shared.bundle.chunks import missing
from shared.protocol.reported import ModelState
from tests.edge_agent.control.generations import generation, ref
from tests.shared.bundle.bundles import bundle

BUNDLES = {}
for model, release in (
    ("sentiment-zh", "1.0.0"),
    ("sentiment-zh", "1.1.0"),
    ("ner-zh", "1.0.0"),
    ("embed-zh", "1.0.0"),
):
    manifest, _, digest, _ = bundle(model, release)
    BUNDLES[digest] = manifest
again, _, other_bytes, _ = bundle("ner-zh", "1.0.0", seed="same version, other bytes")
BUNDLES[other_bytes] = again
DEVICE = Device(preferred="cpu-int8")


def ref_of(digest, variant=None):
    manifest = BUNDLES[digest]
    return ref(digest, manifest.name, manifest.version, variant)


def everything(generation, **changes):
    """Observed when all is staged and loaded for `generation`."""
    variants = choose_variants(generation.models, BUNDLES, DEVICE)
    chunks = {chunk.digest for m in generation.models for f in BUNDLES[m.digest].files for chunk in f.chunks}
    return msgspec.structs.replace(
        Observed(
            device=DEVICE,
            manifests={m.digest: BUNDLES[m.digest] for m in generation.models},
            chunks=frozenset(chunks | {m.digest for m in generation.models}),
            installed=frozenset((m.digest, variants[m.digest]) for m in generation.models),
            loaded={
                (m.name, m.version): Loaded(digest=m.digest, variant=variants[m.digest], state=ModelState.READY)
                for m in generation.models
            },
        ),
        **changes,
    )


ONE = generation(1, *(ref_of(digest) for digest in list(BUNDLES)[:3]))


class World:
    """Does steps to an observation, as the agent does to itself; loading what is in `fails` fails every time."""

    def __init__(self, seen, fails=(), chance=lambda: False):
        self.seen = seen
        self.fails = fails
        self.chance = chance

    def run(self, desired, most=300):
        done = []
        while not done or not isinstance(done[-1], Done | GiveUp):
            assert len(done) < most, "does not end"
            step = next_step(desired, self.seen)
            done.append(step)
            self.check(step)
            if isinstance(step, Fetch | Install | Load) and self.breaks(step):
                key = subject(step.model.digest, None if isinstance(step, Fetch) else step.variant)
                failed = self.seen.failures.get(key, Failure(failed=0, crashed=0, error=""))
                self.change(
                    failures={**self.seen.failures, key: msgspec.structs.replace(failed, failed=failed.failed + 1)}
                )
                if isinstance(step, Load):
                    self.put(step, ModelState.FAILED)
            else:
                self.do(step)
        return done

    def breaks(self, step):
        return (isinstance(step, Load) and subject(step.model.digest, step.variant) in self.fails) or self.chance()

    def check(self, step):
        """What must hold of every step, wherever it starts from."""
        match step:
            case Swap():
                for model in step.generation.models:
                    loaded = self.seen.loaded[model.name, model.version]
                    assert loaded.state is ModelState.READY
                    assert (loaded.digest, loaded.variant) == (model.digest, step.variants[model.digest])
            case Install():
                files = BUNDLES[step.model.digest].files_of(step.variant)
                assert not missing(files, self.seen.chunks)
            case Load():
                assert (step.model.digest, step.variant) in self.seen.installed
            case Collect():
                assert step.bundles or step.chunks
                assert not {digest for digest, _ in step.bundles} & self.seen.kept
                assert not step.chunks & self.seen.kept

    def do(self, step):
        seen = self.seen
        match step:
            case Fetch(variant=None):
                digest = step.model.digest
                self.change(manifests={**seen.manifests, digest: BUNDLES[digest]}, chunks=seen.chunks | {digest})
            case Fetch():
                files = BUNDLES[step.model.digest].files_of(step.variant)
                self.change(chunks=seen.chunks | {chunk.digest for chunk in missing(files, seen.chunks)})
            case Install():
                self.change(installed=seen.installed | {(step.model.digest, step.variant)})
            case Load():
                self.put(step, ModelState.READY)
            case Swap():
                self.change(current=step.generation)
            case Unload():
                self.change(loaded={key: one for key, one in seen.loaded.items() if key != (step.name, step.version)})
            case Collect():
                chunks = seen.chunks - step.chunks
                self.change(
                    chunks=chunks,
                    installed=seen.installed - step.bundles,
                    manifests={digest: one for digest, one in seen.manifests.items() if digest in chunks},
                )

    def put(self, step, state):
        loaded = Loaded(digest=step.model.digest, variant=step.variant, state=state)
        self.change(loaded={**self.seen.loaded, (step.model.name, step.model.version): loaded})

    def change(self, **changes):
        self.seen = msgspec.structs.replace(self.seen, **changes)
