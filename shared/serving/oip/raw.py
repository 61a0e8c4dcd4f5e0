"""A body that is the model's one input and nothing else (`Inference-Header-Content-Length: 0`): its shape is what fits.

Triton's raw form of `binary_tensor_data`: a BYTES input is one element without a length before it, any other may have one
dimension that varies. The answer comes as binary.
"""

import math

import numpy as np

from shared.protocol.errors import Refusal, Refused
from shared.serving.answer import Array
from shared.serving.catalog import Listed
from shared.serving.oip.results import inputs_of
from shared.serving.oip.tensors import HEADER_LENGTH, from_binary
from shared.serving.sessions.datatypes import HELD


def raw_input(body: bytes, model: Listed) -> dict[str, Array]:
    """The one input of `model`.

    Raises:
        Refused: the model has several, or its shape does not follow from the size.

    """
    inputs = inputs_of(model)
    if len(inputs) != 1:
        raise _unfit(f"the model has {len(inputs)} inputs", model)
    (spec,) = inputs
    if spec.datatype == "BYTES":
        if any(size not in (-1, 1) for size in spec.shape):
            raise _unfit(f"{spec.name} has more than one element", model)
        array: Array = np.empty(1, dtype=np.object_)
        array[0] = body
        return {spec.name: array.reshape((1,) * len(spec.shape))}
    varying = sum(size < 0 for size in spec.shape)
    if varying > 1:
        raise _unfit(f"{varying} dimensions of {spec.name} vary", model)
    one = math.prod(size for size in spec.shape if size >= 0) * np.dtype(HELD[spec.datatype]).itemsize
    count, rest = divmod(len(body), one) if one and varying else (1, 0)
    if rest:
        raise Refused("the bytes do not fill the shape", field="body", value=len(body), allowed=f"a multiple of {one}")
    shape = [count if size < 0 else size for size in spec.shape]
    return {spec.name: from_binary(spec.datatype, shape, memoryview(body), spec.name, "body")}


def _unfit(why: str, model: Listed) -> Refused:
    return Refused(
        f"a body without a JSON part does not say enough: {why}",
        kind=Refusal.UNPROCESSABLE,
        field=HEADER_LENGTH,
        value=0,
        allowed=f"a JSON part, as for {model.name} with several tensors",
    )
