"""The golden set: inputs with expected outputs that travel with a bundle, replayed before a version may answer.

`golden.json`: `{"items": [{"text" | "inputs", "expect": {…}}], "tolerances": {variant: number}}`. `expect` holds what
`/predict` would give: `label` and `score`, `entities`, `relations`, `embedding` (its first numbers, and `norm`), `text`, or `outputs` of
named nested lists. A score or a vector's entry may differ by the variant's tolerance; a label only where a tie within the
tolerance tips over, an entity not.
"""

from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np

from shared.bundle.manifest import Manifest
from shared.protocol.errors import Corrupt
from shared.serving.answer import Array, Embedding, Entities, Label, Relations, Result, Tensors, Text
from shared.serving.sessions.datatypes import NUMPY

DEFAULT_TOLERANCE = 1e-3
MAX_BYTES = 64 << 20


class GoldenItem(msgspec.Struct, frozen=True, kw_only=True):
    """One input, and what it must give."""

    text: str | None = None
    inputs: dict[str, object] | None = None
    expect: dict[str, object]


class Golden(msgspec.Struct, frozen=True, kw_only=True):
    """A whole golden set."""

    items: tuple[GoldenItem, ...]
    tolerances: dict[str, float] = {}


def read_golden(manifest: Manifest, folder: Path) -> Golden:
    """The bundle's golden set; an empty one where it has none.

    Raises:
        Corrupt: the file cannot be read.

    """
    if manifest.golden is None:
        return Golden(items=())
    try:
        with (folder / manifest.golden).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise Corrupt(f"{manifest.golden} has more than {MAX_BYTES} B")
        return msgspec.json.decode(data, type=Golden)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Corrupt(f"{manifest.golden} is not a golden set: {error}") from error


def item_of(golden: GoldenItem, manifest: Manifest) -> object:
    """What a task prepares: the text, or arrays of the model's datatypes.

    Raises:
        Corrupt: inputs the model does not have.

    """
    if golden.text is not None:
        return golden.text
    known = {spec.name: spec for spec in manifest.inputs}
    try:
        return {
            name: np.asarray(value, dtype=NUMPY[known[name].datatype]) for name, value in (golden.inputs or {}).items()
        }
    except (KeyError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise Corrupt(f"the golden set has inputs the model does not take: {error}") from error


def difference(expect: Mapping[str, object], result: Result, tolerance: float) -> str | None:
    """How `result` differs from what was expected; None where it does not."""
    match result:
        case Label():
            return _label(expect, result, tolerance)
        case Entities():
            return _entities(expect, result, tolerance)
        case Relations():
            return _relations(expect, result, tolerance)
        case Embedding():
            return _embedding(expect, result.embedding, tolerance)
        case Text():
            return None if expect.get("text") == result.text else "another text"
        case Tensors():
            wanted = expect.get("outputs", {})
            for name, values in wanted.items() if isinstance(wanted, Mapping) else ():
                if name not in result.outputs:
                    return f"no output {name}"
                if (found := _array(values, result.outputs[name], tolerance, name)) is not None:
                    return found
            return None


def _label(expect: Mapping[str, object], result: Label, tolerance: float) -> str | None:
    label, score = expect.get("label"), expect.get("score")
    known = float(score) if isinstance(score, int | float) else None
    if result.label != label:
        # A near tie may tip over; what was expected must still be about as probable as it was.
        near = known is not None and abs(result.scores.get(str(label), -1.0) - known) <= tolerance
        return None if near else f"label {result.label} instead of {label}"
    if known is not None and not abs(result.score - known) <= tolerance:
        return f"score {result.score:.6f} instead of {known:.6f}"
    return None


def _entities(expect: Mapping[str, object], result: Entities, tolerance: float) -> str | None:
    wanted = expect.get("entities", [])
    expected = wanted if isinstance(wanted, list) else []
    found = [(entity.type, entity.start, entity.end) for entity in result.entities]
    if [(entry["type"], entry["start"], entry["end"]) for entry in expected] != found:
        return f"{len(found)} entities that are not the {len(expected)} expected"
    for entry, entity in zip(expected, result.entities, strict=True):
        if "score" in entry and not abs(float(entry["score"]) - entity.score) <= tolerance:
            return f"an entity's score is {entity.score:.6f} instead of {float(entry['score']):.6f}"
    return None


def _relations(expect: Mapping[str, object], result: Relations, tolerance: float) -> str | None:
    wanted = expect.get("relations", [])
    expected = wanted if isinstance(wanted, list) else []
    found = [msgspec.to_builtins(relation) for relation in result.relations]
    if len(expected) != len(found):
        return f"{len(found)} relations instead of {len(expected)}"
    for i, (entry, relation) in enumerate(zip(expected, found, strict=True)):
        for name in ("type", "subject", "object", "subject_start", "object_start"):
            if name in entry and entry[name] != relation[name]:
                return f"relation {i} has {name} {relation[name]} instead of {entry[name]}"
        if "score" in entry and not abs(float(entry["score"]) - relation["score"]) <= tolerance:
            return f"a relation's score is {relation['score']:.6f} instead of {float(entry['score']):.6f}"
    return None


def _embedding(expect: Mapping[str, object], found: Array, tolerance: float) -> str | None:
    wanted = expect.get("embedding")
    norm = expect.get("norm")
    if isinstance(norm, int | float) and not abs(float(np.linalg.norm(found)) - norm) <= tolerance:
        return f"embedding has norm {float(np.linalg.norm(found)):.6f} instead of {norm:.6f}"
    # The first numbers of a vector tell another vector apart as well as all of them do.
    return _array(wanted, found[: len(wanted)], tolerance, "embedding") if isinstance(wanted, list) else None


def _array(wanted: object, found: Array, tolerance: float, name: str) -> str | None:
    expected = np.asarray(wanted, dtype=np.float64)
    if expected.shape != found.shape:
        return f"{name} has shape {found.shape} instead of {expected.shape}"
    worst = float(np.abs(expected - found).max()) if expected.size else 0.0
    return None if worst <= tolerance else f"{name} differs by {worst:.6f}, {tolerance} is allowed"
