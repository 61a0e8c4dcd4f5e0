"""Weights stored as fp16 and widened when a runtime loads the file: half the bytes, the arithmetic stays fp32."""

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from cloud_core.importer.folding import Array, replace_nodes

LARGEST = 65504.0
SMALLEST_PEAK = 1e-3
"""Below this, fp16 has lost the digits that a scale factor needs."""
_SUFFIX, _WIDEN = "_fp16", "_widen"


def store_weights_as_fp16(model: ModelProto, *, at_least: int = 64, exactly: bool = True) -> None:
    """Store float initializers of `at_least` numbers as fp16, in place.

    `exactly`: only those that lose nothing by it, such as weights of a checkpoint that was saved or trained in half precision.
    """
    casts: list[NodeProto] = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        if values.size < at_least or not (_is_exact(values) if exactly else _is_in_range(values)):
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), name + _SUFFIX))
        casts.append(helper.make_node("Cast", [tensor.name], [name], to=TensorProto.FLOAT, name=name + _WIDEN))
    if casts:
        replace_nodes(model, [*casts, *model.graph.node])


def _is_in_range(values: Array) -> bool:
    return SMALLEST_PEAK <= float(np.abs(values).max()) <= LARGEST


def _is_exact(values: Array) -> bool:
    with np.errstate(over="ignore"):
        return bool(np.array_equal(values.astype(np.float16).astype(np.float32), values))
