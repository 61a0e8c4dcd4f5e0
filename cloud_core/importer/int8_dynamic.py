"""ONNX Runtime's own dynamic int8: one scale per activation tensor, so an answer depends on its batch mates. Made only when asked for."""

import logging
from pathlib import Path

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic

from cloud_core.importer.folding import fold_constants


def write_dynamic(fp32: Path, into: Path) -> None:
    """The program at `fp32` as int8 with weights per channel; embedding tables too, which are most of the size."""
    model = onnx.load(str(fp32))
    fold_constants(model)
    # Shapes that the dynamo exporter noted down contradict those the quantizer infers.
    del model.graph.value_info[:]
    logging.disable(logging.WARNING)  # it recommends a preparation that fails on these graphs
    try:
        quantize_dynamic(model, str(into), weight_type=QuantType.QInt8, per_channel=True)
    finally:
        logging.disable(logging.NOTSET)
