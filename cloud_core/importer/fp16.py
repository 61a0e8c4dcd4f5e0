"""fp16 for CUDA: half the bytes and the arithmetic of a GPU's tensor cores; inputs and outputs keep their types.

It loads on a CPU as well, which widens every product again: slower than fp32, and enough to check what it answers.
"""

import warnings
from pathlib import Path

import onnx
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel

from cloud_core.importer.folding import fold_constants

PROVIDER = "CUDAExecutionProvider"


def write_fp16(fp32: Path, into: Path) -> None:
    """The program at `fp32` with fp16 weights and arithmetic; operators without an fp16 form stay as they are."""
    model = onnx.load(str(fp32))
    fold_constants(model)
    del model.graph.value_info[:]
    with warnings.catch_warnings():
        # It tells of every number that becomes zero or the largest fp16; the golden set tells whether that matters.
        warnings.simplefilter("ignore")
        narrow = convert_float_to_float16(model, keep_io_types=True)
    # The casts at inputs stand last, where no checker wants them.
    OnnxModel.graph_topological_sort(narrow.graph, is_deterministic=True)
    onnx.checker.check_model(narrow)
    onnx.save(narrow, str(into))
