"""Constant matrices as int8: seven bits, or eight where no two neighbours overflow the kernels of older processors.

Without VNNI, x86 kernels multiply unsigned activations with signed weights and add two neighbouring products in 16 bits, which
saturates for full 8-bit weights. Seven bits cannot saturate. Eight bits cannot either where two neighbours of one column and
one sign stay within 128 together; the few pairs that do not are drawn in. So both forms answer alike with and without VNNI.
"""

from typing import NamedTuple

import numpy as np

from cloud_core.importer.folding import Array

SMALLEST = 1e-12
SEVEN_BITS = 63
EIGHT_BITS = 127
PAIR = 128
"""255 * 128, twice an unsigned activation times a weight, is the most that fits in 16 signed bits."""
_STEPS = tuple(range(EIGHT_BITS, SEVEN_BITS, -9))
"""127 down to 64, at which no pair is too large."""


class Quantized(NamedTuple):
    """`data` int8 of the matrix's shape; `scale` float32, one per column (or row): data times scale is about the matrix."""

    data: Array
    scale: Array


def rows(table: Array) -> Quantized:
    """An embedding table [entries, width] with one scale per row, [entries, 1]; rows are only read, so all eight bits serve."""
    largest = np.maximum(np.abs(table).max(axis=1, keepdims=True), SMALLEST)
    scale = (largest / np.float32(EIGHT_BITS)).astype(np.float32)
    return Quantized(np.round(table / largest * np.float32(EIGHT_BITS)).astype(np.int8), scale)


def columns(matrix: Array, *, fine: bool = False) -> Quantized:
    """A matrix [inner, outer] with one scale per column, [outer]; `fine` for eight bits with bounded neighbours."""
    largest = np.maximum(np.abs(matrix).max(axis=0), SMALLEST)
    if not fine:
        return _rounded(matrix, largest, SEVEN_BITS)
    best = _in_steps(matrix, largest, _STEPS[0])
    least = _errors(best, matrix)
    for steps in _STEPS[1:]:
        # Fewer steps are coarser but draw fewer pairs in: each column takes what errs least.
        found = _in_steps(matrix, largest, steps)
        errors = _errors(found, matrix)
        better = errors < least
        best = Quantized(np.where(better, found.data, best.data), np.where(better, found.scale, best.scale))
        least = np.minimum(errors, least)
    return best


def _in_steps(matrix: Array, largest: Array, steps: int) -> Quantized:
    found = _rounded(matrix, largest, steps)
    return Quantized(_bounded(found.data), found.scale)


def _errors(found: Quantized, matrix: Array) -> Array:
    """The square error of each column, [outer]."""
    errors: Array = np.square(found.data * found.scale - matrix).sum(axis=0)
    return errors


def _rounded(matrix: Array, largest: Array, steps: int) -> Quantized:
    data = np.round(matrix / largest * np.float32(steps)).astype(np.int8)
    return Quantized(data, (largest / np.float32(steps)).astype(np.float32))


def _bounded(data: Array) -> Array:
    """Each pair of neighbouring rows of one sign drawn in to `PAIR` together, both by half of what is too much."""
    even = len(data) // 2 * 2
    first, second = data[0:even:2].astype(np.int16), data[1:even:2].astype(np.int16)
    excess = np.where(np.sign(first) == np.sign(second), np.maximum(np.abs(first + second) - PAIR, 0), 0)
    half = excess // 2
    bounded = data.copy()
    bounded[0:even:2] = first - np.sign(first) * (excess - half)
    bounded[1:even:2] = second - np.sign(second) * half
    return bounded
