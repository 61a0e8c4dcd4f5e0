"""Files are cut by what they contain: a change in the head of a model moves little more than the head."""

import hashlib
import os
import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud_core.decide.moved import moved
from cloud_core.models.chunking import LARGEST_AVERAGE, MOST, SMALLEST_AVERAGE, SPREAD, average, pieces
from tests.cloud_core.models.another_head import shipped_manifest


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


@given(st.integers(0, 1 << 40))
def test_two_of_the_largest_chunks_are_a_small_share(size):
    found = average(size)
    assert SMALLEST_AVERAGE <= found <= LARGEST_AVERAGE
    assert found == SMALLEST_AVERAGE or 2 * SPREAD * found <= MOST * size
    assert found == LARGEST_AVERAGE or 4 * SPREAD * found >= MOST * size
    assert average(size + 1) >= found


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


def test_what_an_older_version_lacks_is_told_by_variant(tmp_path):
    manifest = shipped_manifest()
    assert [(one.moved, one.share, one.moved_chunks) for one in moved(manifest, manifest)] == [(0, 0.0, 0)] * 2
    only = msgspec.structs.replace(manifest, variants=manifest.variants[:1])
    same, new = moved(only, manifest)
    assert (same.known, same.moved) == (True, 0)
    assert (new.known, new.moved) == (False, new.size)
