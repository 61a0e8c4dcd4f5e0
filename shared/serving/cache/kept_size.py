"""What results weigh in memory once they are kept, and a form of them that keeps nothing else alive."""

import sys
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from shared.serving.answer import Array, Embedding, Result, Tensors

ARRAY = 160
"""Bytes of an array beside its numbers."""


def owned(results: Sequence[Result]) -> tuple[Result, ...]:
    """`results` with arrays of their own, which nobody can write to.

    A row of a batch is a view, and would keep the whole batch in memory that nobody counted.
    """
    return tuple(_owned(result) for result in results)


def size_of(value: object) -> int:
    """Bytes that `value` and all it refers to take; what is shared with others counts in full, so the truth is never more.

    An array counts as if it owned its numbers, as it does once it is kept.
    """
    if value is None or isinstance(value, bool):
        return 0
    if isinstance(value, np.ndarray):
        elements = sum(size_of(each) for each in value.ravel()) if value.dtype.kind == "O" else 0
        return ARRAY + value.nbytes + elements
    size = sys.getsizeof(value)
    match value:
        case msgspec.Struct():
            return size + sum(size_of(getattr(value, name)) for name in value.__struct_fields__)
        case Mapping():
            return size + sum(size_of(key) + size_of(each) for key, each in value.items())
        case tuple() | list():
            return size + sum(size_of(each) for each in value)
        case _:
            return size


def _owned(result: Result) -> Result:
    match result:
        case Embedding():
            return msgspec.structs.replace(result, embedding=_copied(result.embedding))
        case Tensors():
            return Tensors(outputs={name: _copied(array) for name, array in result.outputs.items()})
        case _:
            return result


def _copied(array: Array) -> Array:
    copy = np.array(array, order="C")
    copy.flags.writeable = False
    return copy
