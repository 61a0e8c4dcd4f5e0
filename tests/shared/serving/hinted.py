"""A bundle that extracts, whose program is a known function: a token begins or ends what a table says for the hint's last type."""

from pathlib import Path

import msgspec
import numpy as np
from onnx import TensorProto, helper, numpy_helper

from shared.bundle.manifest import Extraction, Manifest, TaskKind
from tests.shared.serving.bundles import IDS, WORDS, bundle, files_of, save

PERSON, PLACE = "好", "坏"
"""Types of one token each."""
EXTRACTION = Extraction(hint_length=24, window=20, stride=14, threshold=0.6, schema=f'{{"{PERSON}": null}}')
LOGIT = 3.0


def hinted(path: Path) -> Path:
    """王 begins and 明 ends a person, 北 begins and 京 ends a place; a hint asks for the third token from its end."""
    types = [PERSON, PLACE]
    asks = np.zeros((len(WORDS), len(types)), dtype=np.float32)
    for place, name in enumerate(types):
        asks[IDS[name], place] = 1
    tables = {"head_table": ("王", "北"), "tail_table": ("明", "京")}
    constants = {"asks": asks, "one": np.array([1]), "three": np.array([3]), "minus_one": np.array([-1])}
    for name, words in tables.items():
        table = np.full((len(WORDS), len(types)), -LOGIT, dtype=np.float32)
        for place, word in enumerate(words):
            table[IDS[word], place] = LOGIT
        constants[name] = table
    nodes = [
        helper.make_node("ReduceSum", ["hint_mask", "one"], ["hint_length"], keepdims=1),
        helper.make_node("Sub", ["hint_length", "three"], ["type_at"]),
        helper.make_node("GatherElements", ["hint_ids", "type_at"], ["type_id"], axis=1),
        helper.make_node("Squeeze", ["type_id", "one"], ["type_ids"]),
        helper.make_node("Gather", ["asks", "type_ids"], ["hint_asks"]),
        helper.make_node("Gather", ["hint_asks", "row_hint"], ["row_asks"]),
        helper.make_node("Unsqueeze", ["row_asks", "minus_one"], ["row_type"]),
        helper.make_node("Gather", ["input_ids", "row_window"], ["row_ids"]),
    ]
    for output, table in (("heads", "head_table"), ("tails", "tail_table")):
        nodes += [
            helper.make_node("Gather", [table, "row_ids"], [f"{output}_all"]),
            helper.make_node("MatMul", [f"{output}_all", "row_type"], [f"{output}_column"]),
            helper.make_node("Squeeze", [f"{output}_column", "minus_one"], [output]),
        ]
    inputs = {
        "input_ids": ["windows", "sequence"],
        "hint_ids": ["hints", "hint"],
        "hint_mask": ["hints", "hint"],
        "row_window": ["rows"],
        "row_hint": ["rows"],
    }
    graph = helper.make_graph(
        nodes,
        "hinted",
        [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", "sequence"]) for name in ("heads", "tails")],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    save(graph, path)
    return path


def extracting(folder: Path, name: str = "uie", **extraction: object) -> Manifest:
    """A complete bundle of it."""
    how = msgspec.structs.replace(EXTRACTION, **extraction)
    manifest = bundle(folder, name, TaskKind.RELATION_EXTRACTION, extraction=how)
    hinted(folder / "model.onnx")
    return msgspec.structs.replace(manifest, files=files_of(folder))
