"""Shadow runs: may a copy of a request be computed now, and does the other version say the same?  Pure.

What is the same, by kind of result:

| result | the same when |
|---|---|
| a label | the labels are equal, whatever their scores |
| entities | types and offsets are equal, in any order |
| relations | paths of types, texts and offsets are equal, in any order |
| a vector | it has as many numbers, and the cosine of the two is at least `COSINE` |
| a generated text | the texts are equal |
| tensors | names, datatypes and shapes are equal; floating-point numbers lie within `DISTANCE`, everything else is equal |

A request of many items is the same when each of them is.
"""

from collections.abc import Hashable, Sequence
from enum import StrEnum

import msgspec

MOST = 4
"""Copies under way at once."""
COSINE = 0.99
DISTANCE = 0.01
"""Of two arrays of numbers: the norm of their difference over the larger of their norms."""


class Result(StrEnum):
    """What became of a copy: the label `result` of `tideline_shadow_total`; its `reason` is a `Drop`, a `Difference` or an outcome."""

    AGREE = "agree"
    DIFFER = "differ"
    FAILED = "failed"
    DROPPED = "dropped"


class Drop(StrEnum):
    """Why a copy is not computed, or not to its end."""

    NOT_READY = "not-ready"
    BUSY = "busy"
    FULL = "full"
    REQUEST_CAME = "request-came"


class Difference(StrEnum):
    """In what two answers differ."""

    KIND = "kind"
    LABEL = "label"
    ENTITIES = "entities"
    RELATIONS = "relations"
    VECTOR = "vector"
    TEXT = "text"
    TENSORS = "tensors"


class Facts(msgspec.Struct, frozen=True):
    """What must be equal, of both; `what` names it."""

    what: Difference
    real: Hashable
    shadow: Hashable


class Vectors(msgspec.Struct, frozen=True):
    """The cosine of two vectors; None where they have not as many numbers."""

    cosine: float | None


class Arrays(msgspec.Struct, frozen=True):
    """How far two tensors' numbers are apart, as `DISTANCE` says; None where they cannot be compared, or are unequal."""

    distance: float | None


class Unlike(msgspec.Struct, frozen=True):
    """Results of different kinds."""


Pair = Facts | Vectors | Arrays | Unlike
"""One result of the version that answered beside the other's, as far as they are compared."""


def drop(*, ready: bool, under_way: int, copies: int) -> Drop | None:
    """Why a copy may not be computed now; None where it may.

    Args:
        ready: whether the shadow version is loaded and ready.
        under_way: requests that are being answered: one is enough for the device to be busy.
        copies: copies under way already.

    """
    if not ready:
        return Drop.NOT_READY
    if under_way > 0:
        return Drop.BUSY
    if copies >= MOST:
        return Drop.FULL
    return None


def difference(pairs: Sequence[Pair]) -> Difference | None:
    """In what the answers differ first; None where they say the same."""
    for pair in pairs:
        match pair:
            case Facts(what, real, shadow) if real != shadow:
                return what
            case Vectors(cosine) if cosine is None or not cosine >= COSINE:
                return Difference.VECTOR
            case Arrays(distance) if distance is None or not distance <= DISTANCE:
                return Difference.TENSORS
            case Unlike():
                return Difference.KIND
    return None
