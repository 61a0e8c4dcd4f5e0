"""int8 with scales fixed beforehand, from what activations were on samples: for convolutions and other models of tensors.

QDQ form, which ONNX Runtime fuses into integer kernels; no scale depends on what is being computed, so answers do not depend on
batch mates. Seven-bit weights, for the reason told in `int8_weights`.
"""

import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from cloud_core.importer.folding import Array, fold_constants


class _Samples(CalibrationDataReader):
    def __init__(self, samples: Sequence[Mapping[str, Array]]) -> None:
        self._left: Iterator[Mapping[str, Array]] = iter(samples)

    def get_next(self) -> Any:
        """The next sample; None after the last."""
        sample = next(self._left, None)
        return None if sample is None else dict(sample)


def write_static(fp32: Path, into: Path, samples: Sequence[Mapping[str, Array]]) -> None:
    """The program at `fp32` as int8, calibrated on `samples` of its inputs, one at least."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            prepared = _prepared(fp32, Path(folder))
            quantize_static(
                str(prepared), str(into), _Samples(samples), quant_format=QuantFormat.QDQ, per_channel=True,
                reduce_range=True, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            )  # fmt: skip
        finally:
            logging.disable(logging.NOTSET)


def _prepared(fp32: Path, folder: Path) -> Path:
    """Batch normalizations folded into convolutions where that can be done; otherwise as it is."""
    model = onnx.load(str(fp32))
    fold_constants(model)
    del model.graph.value_info[:]
    folded, prepared = folder / "folded.onnx", folder / "prepared.onnx"
    onnx.save(model, str(folded))
    try:
        quant_pre_process(str(folded), str(prepared), skip_symbolic_shape=True)
    except Exception:
        # Its optimizer refuses graphs that ONNX Runtime itself runs; what it does only saves time.
        return folded
    return prepared
