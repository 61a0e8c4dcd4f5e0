"""The shipped sentiment model with another classifier head: a pair of versions as retraining the head alone makes them."""

from pathlib import Path

import msgspec
import numpy as np
import onnx
from onnx import numpy_helper

import cloud_core.models
from cloud_core.models.bundling import described
from shared.bundle.manifest import MANIFEST_FILE, Manifest, canonical, parse_manifest

SHIPPED = Path(cloud_core.models.__file__).with_name("shipped") / "sentiment-zh"


def shipped_manifest() -> Manifest:
    """The manifest as it is shipped."""
    return parse_manifest((SHIPPED / MANIFEST_FILE).read_bytes())


def perturb_head(model: onnx.ModelProto, *, labels: int) -> int:
    """Other numbers in every weight that has a place per label; how many there were."""
    count = 0
    for tensor in model.graph.initializer:
        if tensor.dims and labels in (tensor.dims[0], tensor.dims[-1]):
            array = numpy_helper.to_array(tensor).copy()
            flat = array.reshape(-1)
            flat += np.arange(1, flat.size + 1).astype(array.dtype)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
            count += 1
    return count


def write_bundle(folder: Path, version: str, *, other_head: bool) -> None:
    """A bundle of all variants, its programs written anew, so that the pair differs in nothing but the head."""
    manifest = shipped_manifest()
    folder.mkdir()
    programs = {variant.files[0] for variant in manifest.variants}
    for entry in manifest.files:
        if entry.path in programs:
            model = onnx.load(SHIPPED / entry.path)
            if other_head and perturb_head(model, labels=len(manifest.labels)) == 0:
                raise ValueError(f"{entry.path} has no head")
            onnx.save(model, folder / entry.path)
        else:
            (folder / entry.path).write_bytes((SHIPPED / entry.path).read_bytes())
    files = tuple(described(folder / entry.path) for entry in manifest.files)
    (folder / MANIFEST_FILE).write_bytes(canonical(msgspec.structs.replace(manifest, version=version, files=files)))
