"""Engines whose sessions play a script, and a task that echoes it."""

import numpy as np

from shared.bundle.manifest import Manifest, TaskKind, Variant
from shared.serving.answer import Request, Text
from shared.serving.sessions.scripted import ScriptedSession
from shared.serving.tasks.task import Prepared
from tests.shared.serving.bundles import TENANT, engine


def ask(model: str, *texts: str, **fields) -> Request:
    return Request(**({"id": "r", "tenant": TENANT, "model": model, "texts": texts} | fields))


class EchoTask:
    """Every text is one token; outputs are texts, `None` for the end."""

    name = "echo"

    def estimate(self, item):
        return 1

    def prepare(self, item, parameters):
        return Prepared(tokens=len(item), data=item, parameters=parameters)

    def collate(self, batch):
        return {"texts": np.array([item.data for item in batch], dtype=object)}

    def finish(self, batch, outputs):
        piece = str(outputs["piece"])
        return [Text(text=piece, tokens=1, finish="stop" if piece == "." else None) for _ in batch]


def scripted(session: ScriptedSession, **options):
    return engine(sessions=lambda path, runtime, threads: session, tasks=lambda manifest, folder: EchoTask(), **options)


def manifest_for(name: str = "gen", version: str = "1.0.0") -> Manifest:
    variant = Variant(name="cpu", runtime="onnx", precision="fp32", files=("m",))
    # A tensor model is not warmed by a text: the script sees only what the test sends.
    return Manifest(name=name, version=version, task=TaskKind.TENSOR, variants=(variant,), files=())


def steps(*pieces: str):
    return lambda feeds: [{"piece": np.array(piece)} for piece in pieces]


def load(made, folder, manifest, **options):
    return made.load(TENANT, manifest, "d" * 64, folder, "cpu", **options)
