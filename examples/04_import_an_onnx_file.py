"""Import an `.onnx` file with a signature: any model of arrays, vision, tabular or other, as a `tensor` model.

python -m examples.04_import_an_onnx_file [FILE.onnx SIGNATURE.json]      # needs tideline[cloud,import]

Without arguments, a small classifier of four measurements is written first.
"""

import json
import sys
import tempfile
from pathlib import Path

from examples.small_cloud import small_cloud


def small_classifier(folder: Path) -> tuple[Path, Path]:
    """Softmax of a matrix times four numbers, and what its arrays mean."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = numpy_helper.from_array(np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32), "weights")
    nodes = [
        helper.make_node("MatMul", ["measurements", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
    ]
    graph = helper.make_graph(
        nodes,
        "flowers",
        [helper.make_tensor_value_info("measurements", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 3])],
        [weights],
    )
    program, signature = folder / "flowers.onnx", folder / "signature.json"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(program))
    meaning = {
        "task": "tensor",
        "inputs": [
            {
                "name": "measurements",
                "datatype": "FP32",
                "shape": [-1, 4],
                "axes": ["flower", "sepal and petal, length and width, cm"],
                "minimum": 0.0,
                "maximum": 8.0,
            }
        ],
        "outputs": [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 3], "axes": ["flower", "kind"]}],
        "labels": ["setosa", "versicolor", "virginica"],
    }
    signature.write_text(json.dumps(meaning))
    return program, signature


def main() -> None:
    """Import it, and show the card."""
    with tempfile.TemporaryDirectory() as scratch, small_cloud() as cloud:
        given = [Path(argument).resolve() for argument in sys.argv[1:3]]
        program, signature = given if len(given) == 2 else small_classifier(Path(scratch))
        named = ("--name", "flowers", "--version", "1.0.0", "--variants", "cpu-fp32")
        cloud.fleetctl("models", "import", str(program), "--signature", str(signature), *named)
        cloud.fleetctl("models", "show", "flowers", "1.0.0")


if __name__ == "__main__":
    main()
