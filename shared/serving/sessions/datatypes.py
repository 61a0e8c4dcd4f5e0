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
"""Those that numpy has a type for."""

BF16 = np.dtype("V2")
"""How arrays of BF16 are held: numpy has no such type, so its two bytes per element stay as they are."""
HELD: dict[str, npt.DTypeLike] = {**NUMPY, "BF16": BF16}
"""Every datatype of the protocol, and what holds it."""

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
    "tensor(bfloat16)": "BF16",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}

_KINDS = {np.dtype(kind): name for name, kind in HELD.items() if name != "BYTES"}
_OF_NUMPY = _KINDS | {kind.newbyteorder("S"): name for kind, name in _KINDS.items()}


def datatype_of(array: npt.NDArray[np.generic]) -> str:
    """The OIP datatype of an array; text and bytes are BYTES."""
    return _OF_NUMPY.get(array.dtype, "BYTES")


def to_bf16(numbers: npt.NDArray[np.generic]) -> npt.NDArray[np.void]:
    """Finite numbers as BF16, rounded to the nearest, ties to even; what is too large becomes infinity."""
    bits = np.asarray(numbers, dtype=np.float32).view(np.uint32)
    rounded = bits + 0x7FFF + ((bits >> 16) & 1)
    return (rounded >> 16).astype(np.uint16).view(BF16)


def from_bf16(array: npt.NDArray[np.void]) -> npt.NDArray[np.float32]:
    """BF16 as 32-bit floats, exactly."""
    return (np.ascontiguousarray(array).view(np.uint16).astype(np.uint32) << 16).view(np.float32)
