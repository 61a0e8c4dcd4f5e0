"""Weights behind a Cast or an Identity, or in a Constant node, become plain initializers, so that a rewriter finds them.

Weights stored as fp16 stand behind a Cast, tied weights behind an Identity, and some exporters write Constant nodes.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

Array = npt.NDArray[Any]
_PASSED_ON = ("Cast", "Identity")


def constants_of(model: ModelProto) -> dict[str, Array]:
    """Every initializer of the main graph by name."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def fold_constants(model: ModelProto) -> None:
    """Fold in place; what nothing reads any more is dropped."""
    graph = model.graph
    known = constants_of(model)
    kept, folded = [], []
    for node in graph.node:
        value = _value(node, known)
        if value is None or node.output[0] in {output.name for output in graph.output}:
            kept.append(node)
        else:
            known[node.output[0]] = value
            folded.append(numpy_helper.from_array(value, node.output[0]))
    replace_nodes(model, kept)
    graph.initializer.extend(folded)
    drop_unused(model)


def replace_nodes(model: ModelProto, nodes: list[NodeProto]) -> None:
    """Give the graph these nodes, which may be some of its own."""
    fresh = list(nodes)
    del model.graph.node[:]
    model.graph.node.extend(fresh)


def drop_unused(model: ModelProto) -> None:
    """Drop initializers that no node and no output names, subgraphs included."""
    used = {value.name for value in model.graph.output} | _read(model.graph)
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    if len(kept) == len(model.graph.initializer):
        return
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def _value(node: NodeProto, known: dict[str, Array]) -> Array | None:
    if node.op_type == "Constant":
        given = {attribute.name: attribute for attribute in node.attribute}
        # Small ones are shapes and axes; ONNX Runtime folds those itself, and they are no weights.
        tensor = given["value"].t if "value" in given else None
        return numpy_helper.to_array(tensor) if tensor is not None and len(tensor.dims) >= 2 else None
    if node.op_type not in _PASSED_ON or node.input[0] not in known:
        return None
    value = known[node.input[0]]
    if node.op_type == "Identity":
        return value
    to = next(attribute.i for attribute in node.attribute if attribute.name == "to")
    is_widened = to == TensorProto.FLOAT and value.dtype == np.float16
    return value.astype(np.float32) if is_widened else None


def _read(graph: Any) -> set[str]:
    found = set()
    for node in graph.node:
        found.update(node.input)
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs) if attribute.HasField("g") or attribute.graphs else ():
                found |= _read(inner) | {value.name for value in inner.output}
    return found


def attribute(node: NodeProto, name: str, default: Any) -> Any:
    """An attribute of a node, or `default`."""
    for each in node.attribute:
        if each.name == name:
            return helper.get_attribute_value(each)
    return default
