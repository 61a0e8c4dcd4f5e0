import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.io.deflate import WORDS, deflated, inflated
from shared.protocol.envelope import seal
from shared.protocol.errors import Refused
from shared.protocol.telemetry import KIND, Batch, Host, Sample

MOST = 100_000


@given(st.binary(max_size=2000))
def test_what_goes_in_comes_out(plain: bytes) -> None:
    assert inflated(deflated(plain), most=MOST) == plain


@given(st.binary(max_size=200))
def test_bytes_of_strangers_are_given_back_or_refused(data: bytes) -> None:
    try:
        assert len(inflated(data, most=MOST)) <= MOST
    except Refused:
        assert data[:1] == b"\x78"


def test_json_is_given_back_as_it_is() -> None:
    assert inflated(b'{"v":"1.0"}', most=MOST) == b'{"v":"1.0"}'


@pytest.mark.parametrize(
    "data",
    [
        deflated(b"a" * (MOST + 1)),
        deflated(b"abc" * 100)[:-1],
        deflated(b"abc") + b"more",
        zlib.compress(b"another dictionary: none") + b"x",
        zlib.compressobj(zdict=WORDS + b"other").compress(b"") + b"x",
        b"\x78",
    ],
)
def test_bombs_and_damage_are_refused(data: bytes) -> None:
    with pytest.raises(Refused):
        inflated(data, most=MOST)


def test_exactly_the_most_is_taken() -> None:
    assert len(inflated(deflated(b"a" * MOST), most=MOST)) == MOST


def test_an_idle_sample_is_small() -> None:
    host = Host(
        cpu=0.031, memory=0.412, disk_free_bytes=123456789, agent_memory_bytes=412345678, disk_total_bytes=1234567890
    )
    sample = Sample(seq=4242, started_at=1763760000.123, ended_at=1763760010.123, host=host)
    plain = seal(KIND, Batch(epoch=1763700000, samples=(sample,)), id="4242", now=1763760010.2)
    assert len(deflated(plain)) < 120
