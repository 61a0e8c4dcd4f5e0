"""Engines whose sessions play a script, and a task that echoes it."""

from itertools import count

import numpy as np

from shared.bundle.manifest import Manifest, TaskKind, TensorSpec, Variant
from shared.serving.answer import Request, Text
from shared.serving.sessions.scripted import ScriptedSession
from shared.serving.tasks.task import Prepared
from tests.shared.serving.bundles import TENANT, engine


def ask(model: str, *texts: str, **fields) -> Request:
    return Request(**({"id": "r", "tenant": TENANT, "model": model, "texts": texts} | fields))


class EchoTask:
    """Every text is one token; each run gives the piece of its step, the last of which is a full stop; none ends too early."""

    name = "echo"

    def estimate(self, item, parameters):
        return 1

    def prepare(self, item, parameters):
        return Prepared(tokens=len(item), data=item, parameters=parameters)

    def steps(self, run, batch):
        texts = np.array([item.data for item in batch], dtype=object)
        for step in count():
            outputs = run({"texts": texts, "step": np.array(step)})
            if "piece" not in outputs:
                return
            piece = str(outputs["piece"])
            yield [Text(text=piece, tokens=1, finish="stop" if piece == "." else None) for _ in batch]


def scripted(session: ScriptedSession, **options):
    return engine(
        sessions=lambda path, variant, arrangement: session, tasks=lambda manifest, folder: EchoTask(), **options
    )


def manifest_for(name: str = "gen", version: str = "1.0.0") -> Manifest:
    variant = Variant(name="cpu", runtime="onnx", precision="fp32", files=("m",))
    # A tensor model is not warmed by a text: the script sees only what the test sends.
    return Manifest(name=name, version=version, task=TaskKind.TENSOR, variants=(variant,), files=())


INPUTS = tuple(TensorSpec(name=name, datatype="BYTES", shape=(-1,)) for name in ("texts", "step"))


def piece_of(pieces, feeds) -> dict:
    """What a run gives whose pieces these are."""
    step = int(feeds["step"])
    return {"piece": np.array(pieces[step])} if step < len(pieces) else {}


def playing(*pieces: str, **options) -> ScriptedSession:
    """A session that answers everything with these pieces."""
    return ScriptedSession(lambda feeds: piece_of(pieces, feeds), inputs=INPUTS, **options)


def load(made, folder, manifest, **options):
    return made.load(TENANT, manifest, "d" * 64, folder, "cpu", **options)
