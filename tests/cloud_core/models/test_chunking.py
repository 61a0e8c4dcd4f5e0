"""Files are cut by what they contain: a change in the head of a model moves little more than the head."""

import hashlib
import os
import random
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

import cloud_core.models
from cloud_core.decide.moved import moved
from cloud_core.models.bundling import described
from cloud_core.models.chunking import AVERAGES, LARGEST_AVERAGE, SPREAD, average, pieces
from shared.bundle.manifest import MANIFEST_FILE, parse_manifest

SHIPPED = Path(cloud_core.models.__file__).with_name("shipped")
MOST = 0.05


def cut(path, data):
    path.write_bytes(data)
    return list(pieces(path))


def digests(found):
    return {hashlib.sha256(piece).hexdigest() for piece in found}


def share(before, after):
    lacking = digests(after) - digests(before)
    return sum(len(piece) for piece in after if hashlib.sha256(piece).hexdigest() in lacking) / sum(map(len, after))


@pytest.mark.parametrize("size", [0, 1, 1000, 100_000, 3_000_000])
def test_chunks_make_up_the_file_within_their_bounds(tmp_path, size):
    data = random.Random(size).randbytes(size)
    found = cut(tmp_path / "file", data)
    assert b"".join(found) == data
    assert found == cut(tmp_path / "again", data)
    most = average(size)
    assert all(len(piece) <= most * SPREAD for piece in found)
    assert all(len(piece) >= most // SPREAD for piece in found[:-1])


def test_larger_files_have_larger_chunks():
    assert average(0) == AVERAGES[0][1]
    for below, least in AVERAGES:
        assert average(below - 1) == least < average(below)
    assert average(1 << 40) == LARGEST_AVERAGE


@settings(max_examples=30)
@given(st.integers(0, 3_999_000), st.integers(0, 5000), st.integers(0, 5000))
def test_an_insertion_moves_the_chunks_around_it(tmp_path_factory, place, cut_out, put_in):
    folder = tmp_path_factory.mktemp("cut")
    data = random.Random(1).randbytes(4_000_000)
    other = data[:place] + os.urandom(put_in) + data[place + cut_out :]
    assert share(cut(folder / "one", data), cut(folder / "two", other)) <= 5 * SPREAD * average(len(data)) / len(data)


def test_a_synthetic_model_with_another_head_moves_at_most_a_twentieth(tmp_path):
    body, head = random.Random(1).randbytes(20_000_000), random.Random(2).randbytes(40_000)
    longer = random.Random(3).randbytes(52_000)
    one, two = (cut(tmp_path / name, body + b"graph" + each) for name, each in (("one", head), ("two", longer)))
    assert 0 < share(one, two) <= MOST


@pytest.mark.parametrize("program", ["model.fp32.onnx", "model.int8.onnx"])
def test_a_shipped_model_with_another_head_moves_at_most_a_twentieth(tmp_path, program):
    manifest = parse_manifest((SHIPPED / "sentiment-zh" / MANIFEST_FILE).read_bytes())
    variant = next(each for each in manifest.variants if each.files[0] == program)
    versions = []
    for name, perturbed in (("one", False), ("two", True)):
        folder = tmp_path / name
        folder.mkdir()
        model = onnx.load(SHIPPED / "sentiment-zh" / program)
        if perturbed:
            assert _perturb_head(model, labels=len(manifest.labels)) > 0
        onnx.save(model, folder / program)
        others = [entry.path for entry in manifest.files_of(variant.name) if entry.path != program]
        files = (described(folder / program), *(described(SHIPPED / "sentiment-zh" / path) for path in others))
        versions.append(msgspec.structs.replace(manifest, variants=(variant,), files=files))
    (found,) = moved(*versions)
    assert found.known
    assert 0 < found.share <= MOST, found


def _perturb_head(model, *, labels):
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


def test_what_an_older_version_lacks_is_told_by_variant(tmp_path):
    manifest = parse_manifest((SHIPPED / "sentiment-zh" / MANIFEST_FILE).read_bytes())
    assert [(one.moved, one.share, one.moved_chunks) for one in moved(manifest, manifest)] == [(0, 0.0, 0)] * 2
    only = msgspec.structs.replace(manifest, variants=manifest.variants[:1])
    same, new = moved(only, manifest)
    assert (same.known, same.moved) == (True, 0)
    assert (new.known, new.moved) == (False, new.size)
