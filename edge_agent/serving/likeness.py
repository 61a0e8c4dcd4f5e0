"""Two versions' results side by side, reduced to what `decide/shadow` compares."""

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence

import numpy as np

from edge_agent.decide.shadow import Arrays, Difference, Facts, Pair, Unlike, Vectors
from shared.serving.answer import Array, Embedding, Entities, Label, Relations, Result, Tensors, Text


def pairs_of(real: Sequence[Result], shadow: Sequence[Result]) -> list[Pair]:
    """One pair per result, and per array of tensors."""
    if len(real) != len(shadow):
        return [Unlike()]
    return [pair for mine, other in zip(real, shadow, strict=True) for pair in _pairs(mine, other)]


def _pairs(real: Result, shadow: Result) -> Iterable[Pair]:
    match real, shadow:
        case Label(), Label():
            yield Facts(Difference.LABEL, real.label, shadow.label)
        case Entities(), Entities():
            yield Facts(Difference.ENTITIES, _entities(real), _entities(shadow))
        case Relations(), Relations():
            yield Facts(Difference.RELATIONS, _relations(real), _relations(shadow))
        case Embedding(), Embedding():
            yield Vectors(_cosine(real.embedding, shadow.embedding))
        case Text(), Text():
            yield Facts(Difference.TEXT, real.text, shadow.text)
        case Tensors(), Tensors():
            yield Facts(Difference.TENSORS, _form(real), _form(shadow))
            for name in real.outputs.keys() & shadow.outputs.keys():
                yield Arrays(_distance(real.outputs[name], shadow.outputs[name]))
        case _:
            yield Unlike()


def _entities(result: Entities) -> Hashable:
    return _counted((each.type, each.start, each.end) for each in result.entities)


def _relations(result: Relations) -> Hashable:
    return _counted(
        (
            *((outer.type, outer.start, outer.end) for outer in each.within),
            (each.subject_type, each.subject, each.subject_start, each.subject_end),
            (each.type, each.object, each.object_start, each.object_end),
        )
        for each in result.relations
    )


def _counted(facts: Iterable[Hashable]) -> Hashable:
    """The same for the same facts in any order, each as often as it is there."""
    return frozenset(Counter(facts).items())


def _form(result: Tensors) -> Hashable:
    return tuple((name, array.dtype.name, array.shape) for name, array in sorted(result.outputs.items()))


def _cosine(real: Array, shadow: Array) -> float | None:
    if real.shape != shadow.shape:
        return None
    a, b = real.astype(np.float64).ravel(), shadow.astype(np.float64).ravel()
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    if norms == 0.0:
        return 1.0 if np.array_equal(a, b) else None
    return float(a @ b) / norms


def _distance(real: Array, shadow: Array) -> float | None:
    if real.shape != shadow.shape or real.dtype != shadow.dtype:
        return None
    if real.dtype.kind != "f":
        return 0.0 if np.array_equal(real, shadow) else None
    a, b = real.astype(np.float64).ravel(), shadow.astype(np.float64).ravel()
    if np.array_equal(a, b, equal_nan=True):
        return 0.0
    # Infinite where one is: not within any distance of another.
    with np.errstate(invalid="ignore", over="ignore"):
        largest = max(float(np.linalg.norm(a)), float(np.linalg.norm(b)))
        distance = float(np.linalg.norm(a - b)) / largest if largest > 0.0 else 0.0
    return distance if np.isfinite(distance) else None
