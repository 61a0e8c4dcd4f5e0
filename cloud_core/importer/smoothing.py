"""Outlier channels of activations, found by running the model, and what is divided out of them before they are quantized.

A few channels of a transformer's activations are many times larger than the rest and take all of a row's 8 bits. Dividing each
channel by a factor that the matrix is multiplied with moves them into the weights (SmoothQuant, Xiao et al., 2022, arXiv:2211.10438).
How far is tried out per activation on what the model computes for samples, by the error of the products themselves.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, helper

from cloud_core.importer.folding import Array
from cloud_core.importer.running import run_session

STRENGTHS = (0.5, 0.65, 0.8)
"""How much of the difference goes into the weights."""
WORTH = 0.5
"""A pass over the activation must bring the error below this share of what it is without."""
_SMALLEST = 1e-5
_STEPS = np.float32(127)


def activations_of(model: ModelProto, names: Sequence[str], samples: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """All rows [rows, channels] of each activation of `names` over `samples` of the graph's inputs.

    All, because it is a few positions, such as that of `[SEP]`, that have the outliers.
    """
    if not names:
        return {}
    session = _watching(model, names)
    found: dict[str, list[Array]] = {name: [] for name in names}
    for sample in samples:
        for name, value in zip(names, session.run(list(names), dict(sample)), strict=True):
            found[name].append(value.reshape(-1, value.shape[-1]))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _watching(model: ModelProto, names: Sequence[str]) -> Any:
    """A session that gives the activations too; the model is as it was afterwards, for a copy may be gigabytes."""
    outputs = model.graph.output
    count, present = len(outputs), {output.name for output in outputs}
    outputs.extend(helper.make_empty_tensor_value_info(name) for name in names if name not in present)
    try:
        return run_session(model.SerializeToString())
    finally:
        del outputs[count:]


def divisor_for(activation: Array, matrices: Sequence[Array]) -> Array | None:
    """What each channel is best divided by, geometric mean 1; None where that is not worth a pass.

    Args:
        activation: [rows, inner], samples of it.
        matrices: [inner, outer] each, those it is multiplied with.

    """
    exact = [activation @ matrix for matrix in matrices]
    least = WORTH * _error(activation, matrices, exact, np.ones(activation.shape[1], np.float32))
    best = None
    for divisor in _candidates(activation, matrices):
        error = _error(activation, matrices, exact, divisor)
        if error < least:
            best, least = divisor, error
    return best


def _candidates(activation: Array, matrices: Sequence[Array]) -> Iterator[Array]:
    peaks = np.maximum(np.abs(activation).max(axis=0), _SMALLEST)
    weights = np.maximum(np.max([np.abs(matrix).max(axis=1) for matrix in matrices], axis=0), _SMALLEST)
    for strength in STRENGTHS:
        factors = peaks**strength / weights ** (1 - strength)
        yield (factors / np.exp(np.log(factors).mean())).astype(np.float32)


def _error(activation: Array, matrices: Sequence[Array], exact: Sequence[Array], divisor: Array) -> float:
    """Relative square error of the products, all of them together."""
    rounded = _rounded(activation / divisor, axis=1)
    total = 0.0
    for matrix, wanted in zip(matrices, exact, strict=True):
        found = rounded @ _rounded(matrix * divisor[:, np.newaxis], axis=0)
        total += float(np.mean(np.square(found - wanted).sum(axis=1) / (np.square(wanted).sum(axis=1) + _SMALLEST)))
    return total


def _rounded(values: Array, *, axis: int) -> Array:
    """To 127 steps of the largest magnitude along `axis`, and back."""
    scale = np.maximum(np.abs(values).max(axis=axis, keepdims=True), _SMALLEST) / _STEPS
    rounded: Array = np.round(values / scale) * scale
    return rounded
