"""What ONNX itself says of a program, and how large its values would be, before any runtime has it.

Only a sacrificial child imports this: the checker parses in C++ what strangers wrote. `shared.serving.trial.program` has judged
the file by then: self-contained, known operators, bounded.
"""

import math
import mmap
from collections.abc import Iterator
from pathlib import Path

import onnx
from onnx import checker, shape_inference

from shared.protocol.errors import Refusal, Refused
from shared.serving.trial.protobuf import fields, message_field, within

MAX_ELEMENTS = 1 << 29
"""Of one value whose shape can be told without running the program."""
WEIGHT_BYTES = 4096
"""Constants up to this size may be shapes and are followed; larger ones are weights, of which only the shape matters."""
_SAID = 500
_GRAPH, _INITIALIZER = 7, 5
_DATA = (4, 5, 6, 7, 9, 10, 11)
"""Fields of a tensor that hold its numbers."""


def inspect_program(path: Path) -> None:
    """Judge the program at `path`. Blocks.

    Raises:
        Refused: `code` is `invalid-program` or `too-large`.

    """
    try:
        checker.check_model(str(path))
        inferred = shape_inference.infer_shapes(
            without_weights(path), check_type=True, strict_mode=True, data_prop=True
        )
    except (checker.ValidationError, shape_inference.InferenceError, ValueError, RuntimeError) as error:
        said = " ".join(str(error).split())[:_SAID]
        raise _refused(f"ONNX's checker refuses it: {said}", path.name, code="invalid-program") from error
    for name, shape in _shapes(inferred.graph):
        if math.prod(shape) > MAX_ELEMENTS:
            raise _refused(
                "a value is too large",
                f"{path.name}:{name}",
                code="too-large",
                value=list(shape),
                allowed=f"at most {MAX_ELEMENTS} elements",
            )


def without_weights(path: Path) -> bytes:
    """The program with the numbers of its large constants left out, which is all of it but a few kilobytes."""
    with path.open("rb") as file:
        whole = memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
    return b"".join(
        message_field(_GRAPH, b"".join(_light(graph.value))) if graph.number == _GRAPH else bytes(graph.whole)
        for graph in fields(whole)
    )


def _light(graph: memoryview | int) -> Iterator[bytes]:
    for field in fields(within(graph)):
        if field.number == _INITIALIZER and len(field.whole) > WEIGHT_BYTES:
            kept = (bytes(part.whole) for part in fields(within(field.value)) if part.number not in _DATA)
            yield message_field(_INITIALIZER, b"".join(kept))
        else:
            yield bytes(field.whole)


def _shapes(graph: onnx.GraphProto) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every value whose type was found, here and in subgraphs; what varies counts as 1."""
    for info in (*graph.value_info, *graph.output, *graph.input):
        dims = info.type.tensor_type.shape.dim
        yield info.name, tuple(max(dim.dim_value, 1) if dim.HasField("dim_value") else 1 for dim in dims)
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
                yield from _shapes(inner)


def _refused(message: str, field: str, *, code: str, value: object = None, allowed: str | None = None) -> Refused:
    return Refused(message, kind=Refusal.UNPROCESSABLE, field=field, value=value, allowed=allowed, code=code)
