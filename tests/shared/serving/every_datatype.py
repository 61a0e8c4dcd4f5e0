"""Programs that take and give every datatype of the protocol, and values of each."""

import numpy as np
from onnx import TensorProto, helper

from shared.serving.sessions.datatypes import NUMPY, to_bf16
from tests.shared.serving.bundles import save

ELEMENTS = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}
VALUES = {
    "BOOL": [True, False],
    "BYTES": ["好".encode(), b""],
    **{name: [np.iinfo(NUMPY[name]).min, np.iinfo(NUMPY[name]).max] for name in ELEMENTS if "INT" in name},
    **{name: [np.inf, -0.5] for name in ("FP16", "FP32", "FP64")},
    "BF16": [1.5, -0.5],
}


def array_of(name, values=None):
    """`values` of a datatype, or ours, as the server holds them."""
    given = VALUES[name] if values is None else values
    return to_bf16(np.array(given)) if name == "BF16" else np.array(given, dtype=NUMPY[name])


def identities(path, datatypes):
    """One input and one output of each datatype, the one a copy of the other."""
    sides = [
        [helper.make_tensor_value_info(f"{side}_{name}", ELEMENTS[name], ["n"]) for name in datatypes]
        for side in ("in", "out")
    ]
    nodes = [helper.make_node("Identity", [f"in_{name}"], [f"out_{name}"]) for name in datatypes]
    save(helper.make_graph(nodes, "identities", *sides), path)
    return path
