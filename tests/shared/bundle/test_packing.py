"""The kept form of a chunk: packed where that pays, told apart by itself, and never unpacked to more than was told."""

import contextlib
import random
import tracemalloc

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from shared.bundle.packing import HEAD, MAGIC, PAYS, is_packed, pack, size_of, unpack
from shared.protocol.errors import Corrupt

CONTENTS = st.one_of(
    st.binary(max_size=300),
    st.binary(max_size=50).map(lambda seed: MAGIC + seed),
    st.builds(lambda seed, times: seed * times, st.binary(max_size=20), st.integers(0, 200)),
    st.binary(max_size=200).map(lambda seed: zstandard.ZstdCompressor().compress(seed)),
)


@given(CONTENTS)
def test_a_form_says_what_it_is_and_gives_its_content_back(content: bytes) -> None:
    form = pack(content)
    assert size_of(form[:HEAD], len(form)) == len(content)
    if is_packed(form[:4]):
        assert unpack(form, len(content)) == content
    else:
        assert form == content


def test_what_saves_too_little_stays_as_it_is() -> None:
    """Four fifths noise saves nearly a fifth; noise with a twentieth of zeros and its overhead does not save a twentieth."""
    noise = random.Random(1).randbytes(100_000)
    assert pack(noise) is noise
    assert is_packed(pack(noise[:80_000] + bytes(20_000)))
    little = noise[:96_000] + bytes(4_000)
    assert len(zstandard.ZstdCompressor().compress(little)) > (1 - PAYS) * len(little)
    assert pack(little) is little


@pytest.mark.parametrize(
    ("holds", "claims"), [(1 << 26, None), (1 << 26, 100_000), (100_000, 1 << 31), (90_000, 100_000)]
)
def test_nothing_grows_beyond_what_was_told(holds: int, claims: int | None) -> None:
    """A bomb whose header does not tell its size, or lies: what it may hold is made, and not more."""
    packed = zstandard.ZstdCompressor(write_content_size=claims is not None).compress(bytes(holds))
    if claims is not None:
        told = packed.replace(holds.to_bytes(4, "little"), claims.to_bytes(4, "little"), 1)
        assert told != packed
        packed = told
    tracemalloc.start()
    try:
        with pytest.raises(Corrupt):
            unpack(packed, 100_000)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@given(st.data())
def test_a_changed_form_is_corrupt_or_has_the_size(data: st.DataObject) -> None:
    """The hash that follows tells of changed content; unpacking itself neither crashes nor gives another length."""
    form = bytearray(pack(b"abcd" * 500))
    for _ in range(data.draw(st.integers(1, 3))):
        form[data.draw(st.integers(0, len(form) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(form[: data.draw(st.integers(0, len(form)))])
    with contextlib.suppress(Corrupt):
        assert len(unpack(cut, 2000)) == 2000


def test_two_frames_are_not_one_form() -> None:
    form = pack(b"abcd" * 500)
    with pytest.raises(Corrupt):
        unpack(form + form, 2000)
