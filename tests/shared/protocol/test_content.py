"""Parts on the wire: what was sealed opens to itself, damage is seen, and no stranger's bytes are more than refused."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.protocol.content import MOST_BYTES, MOST_PARTS, Get, Head, Part, Sent, check, opened, refused, sealed
from shared.protocol.errors import Corrupt, Refused

DIGEST = "0" * 64


@given(st.binary(max_size=300), st.integers(0, 1 << 40), st.text(max_size=20))
def test_what_was_sealed_opens_to_itself(data, begin, tag):
    sent = opened(sealed(data, begin=begin, size=begin + len(data), tag=tag))
    assert sent.data == data
    assert (sent.head.begin, sent.head.size, sent.head.tag, sent.head.status) == (begin, begin + len(data), tag, 200)


@given(st.binary(min_size=1, max_size=300), st.data())
def test_damage_is_seen(data, drawn):
    payload = bytearray(sealed(data, begin=0, size=len(data), tag=""))
    at = drawn.draw(st.integers(len(payload) - len(data), len(payload) - 1))
    payload[at] ^= 1 << drawn.draw(st.integers(0, 7))
    with pytest.raises(Corrupt):
        opened(bytes(payload))


@given(st.binary(max_size=300))
def test_strangers_bytes_are_refused_or_corrupt(payload):
    with contextlib.suppress(Refused, Corrupt):
        assert isinstance(opened(payload), Sent)


def test_a_refusal_says_what_and_of_which_part():
    assert opened(refused(404, "none", begin=7)) == Sent(Head(begin=7, status=404, detail="none"), b"")


@pytest.mark.parametrize(
    ("row", "parts", "field"),
    [
        ("chunks-get", (), "body.parts"),
        ("chunks-get", (Part(DIGEST, 0, 1),) * (MOST_PARTS + 1), "body.parts"),
        ("chunks-get", (Part("../etc/passwd", 0, 1),), "body.parts[0].name"),
        ("chunks-get", (Part("root.json", 0, 1),), "body.parts[0].name"),
        ("trust-get", (Part("a/b", 0, 1),), "body.parts[0].name"),
        ("trust-get", (Part("+", 0, 1),), "body.parts[0].name"),
        ("trust-get", (Part("root.json", 1, 1),), "body.parts[0]"),
        ("trust-get", (Part("root.json", -1, 1),), "body.parts[0]"),
        ("trust-get", (Part("root.json", 0, MOST_BYTES + 1),), "body.parts[0]"),
    ],
)
def test_what_no_device_of_ours_asks_for_is_refused_by_name(row, parts, field):
    with pytest.raises(Refused) as caught:
        check(Get(parts=parts), row)
    assert caught.value.field == field


def test_what_devices_ask_for_is_taken():
    check(Get(parts=(Part(DIGEST, 0, MOST_BYTES), Part(DIGEST, 1 << 40, (1 << 40) + 1))), "chunks-get")
    check(Get(parts=(Part("12.snapshot.json", 0, 1),) * MOST_PARTS), "trust-get")
