"""Runs of ONNX programs that take or give BF16: ONNX Runtime has no numpy form of it, only values of its own.

Its CPU provider can move and cast BF16, not calculate with it: a program that multiplies such tensors does not load there.
Nor does it make values of texts: a program that takes both does not pass its trial.
"""

import ctypes
import math
from collections.abc import Sequence

import numpy as np
import onnxruntime

from shared.serving.answer import Array
from shared.serving.sessions.datatypes import BF16
from shared.serving.sessions.session import Feeds

_ONNX_BF16 = 16
"""`TensorProto.BFLOAT16`."""
_TYPE = "tensor(bfloat16)"


def takes_bf16(session: onnxruntime.InferenceSession) -> bool:
    """Whether any input or output is BF16."""
    return any(node.type == _TYPE for node in (*session.get_inputs(), *session.get_outputs()))


def run(session: onnxruntime.InferenceSession, feeds: Feeds, options: onnxruntime.RunOptions) -> Sequence[Array]:
    """All outputs of one run."""
    # The runtime reads the arrays where they are: they live as long as the run does.
    held = {name: np.ascontiguousarray(array) for name, array in feeds.items()}
    values = {name: _value(array) for name, array in held.items()}
    return [_array(value) for value in session.run_with_ort_values(None, values, options)]


def _value(array: Array) -> onnxruntime.OrtValue:
    if array.dtype != BF16:
        return onnxruntime.OrtValue.ortvalue_from_numpy(array)
    return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), _ONNX_BF16)


def _array(value: onnxruntime.OrtValue) -> Array:
    if value.data_type() != _TYPE:
        return np.asarray(value.numpy())
    shape = tuple(value.shape())
    raw = (ctypes.c_uint16 * math.prod(shape)).from_address(value.data_ptr())
    # Copied: the value's memory goes with it.
    return np.array(raw, dtype=np.uint16).view(BF16).reshape(shape)
