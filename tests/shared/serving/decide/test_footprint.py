"""What a program is believed to take, and what a process may."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.bundle.manifest import File, Manifest, Requirements, TaskKind, Variant
from shared.serving.decide.footprint import Footprint, allowance, corrected, described

MB = 1 << 20


def manifest(size: int, **variant) -> Manifest:
    return Manifest(
        name="m",
        version="1.0.0",
        task=TaskKind.TENSOR,
        variants=(Variant(name="cpu", runtime="onnx", precision="fp32", files=("m.onnx",), **variant),),
        files=(File(path="m.onnx", size=size, sha256="0" * 64, chunks=()),),
    )


@pytest.mark.parametrize(
    ("variant", "bytes_"),
    [
        ({"requirements": Requirements(memory_bytes=300)}, 300),
        ({"measured": {"memory_bytes": 500.0}}, 500),
        ({"requirements": Requirements(memory_bytes=300), "measured": {"memory_bytes": 500.0}}, 300),
        ({}, 200),
        ({"requirements": Requirements(memory_bytes=10)}, 100),
    ],
    ids=["required", "measured", "required-wins", "undescribed", "never-less-than-its-bytes"],
)
def test_the_manifest_says_it_first(variant, bytes_):
    told = manifest(100, **variant)
    assert described(told, told.variants[0]) == Footprint(bytes=bytes_, least=100)


@given(st.integers(1, 1000), st.integers(1, 1000), st.lists(st.integers(-500, 3000), max_size=30))
def test_corrections_stay_between_what_was_believed_and_what_was_seen(least, extra, seen):
    known = Footprint(bytes=least + extra, least=least)
    for grown in seen:
        after = corrected(known, grown)
        assert after.bytes >= least
        low, high = sorted((known.bytes, max(least, grown)))
        assert low - 1 <= after.bytes <= high
        assert after == known or grown > 0
        known = after


def test_what_is_seen_again_and_again_is_believed():
    known = Footprint(bytes=1000 * MB, least=MB)
    for _ in range(25):
        known = corrected(known, 40 * MB)
    assert 40 * MB <= known.bytes < 42 * MB


@given(st.integers(0, 1 << 40), st.integers(0, 1 << 40), st.integers(1, 8))
def test_left_alone_programs_get_three_fifths_and_growth_ends_before_the_limit(limit, used, processes):
    allowed = allowance(limit, used, processes=processes)
    assert allowed.budget == int(0.6 * max(0, limit // processes - used))
    if limit // processes - used > 1 << 30:
        assert used + allowed.budget + allowed.slack < limit // processes


def test_what_was_set_holds():
    allowed = allowance(1000 * MB, 100 * MB, budget=700 * MB, slack=10 * MB)
    assert (allowed.budget, allowed.slack) == (700 * MB, 10 * MB)
