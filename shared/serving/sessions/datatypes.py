"""Open Inference Protocol datatypes, ONNX Runtime's names of them, and numpy's."""

import numpy as np
import numpy.typing as npt

NUMPY: dict[str, npt.DTypeLike] = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    "BYTES": np.object_,
}
"""BF16 is absent: numpy has no such type, and nothing served here takes it."""

OF_ONNX = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}

_OF_NUMPY = {np.dtype(kind).str: name for name, kind in NUMPY.items() if name != "BYTES"}


def datatype_of(array: npt.NDArray[np.generic]) -> str:
    """The OIP datatype of an array; text and bytes are BYTES."""
    return _OF_NUMPY.get(array.dtype.newbyteorder("=").str, "BYTES")
