"""HTTP/1.1 responses out of bytes, however they were cut."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_core.ctl.load.response import NoResponse, Response, ResponseReader


def read(data: bytes, *cuts: int) -> Response | None:
    reader, found = ResponseReader(), None
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, end in itertools.pairwise(edges):
        if start == end:
            continue
        assert found is None, "a response before its last byte"
        found = reader.feed(data[start:end])
    return found


SIZED = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nhel\r\n2\r\nlo\r\n0\r\nTrailer: 1\r\n\r\n"
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n" + SIZED
EMPTY = b"HTTP/1.1 204 No Content\r\nDate: now\r\n\r\n"
LAST = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 2\r\nconnection: Close\r\ncontent-length: 0\r\n\r\n"


@pytest.mark.parametrize(
    ("data", "status", "body", "close"),
    [
        (SIZED, 200, b"hello", False),
        (CHUNKED, 200, b"hello", False),
        (INTERIM, 200, b"hello", False),
        (EMPTY, 204, b"", False),
        (LAST, 429, b"", True),
        (SIZED.replace(b"1.1", b"1.0"), 200, b"hello", True),
        (CHUNKED.replace(b"Trailer: 1\r\n", b""), 200, b"hello", False),
    ],
)
@given(cuts=st.lists(st.integers(0, 200), max_size=6))
def test_a_response_is_whole_with_its_last_byte(data, status, body, close, cuts) -> None:
    found = read(data, *cuts)
    assert found is not None
    assert (found.status, found.body, found.close) == (status, body, close)


def test_one_reader_reads_one_after_the_other() -> None:
    reader = ResponseReader()
    for data in (SIZED, CHUNKED, LAST):
        assert reader.feed(data[:10]) is None
        assert reader.feed(data[10:]) is not None


def test_retry_after_is_seconds_or_nothing() -> None:
    assert [found.retry_after for data in (LAST, SIZED) if (found := read(data))] == [2.0, None]
    date = read(LAST.replace(b"Retry-After: 2", b"Retry-After: Sat, 21 Nov 2026 18:00:00 GMT"))
    assert date is not None
    assert date.retry_after is None


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        SIZED + b"x",
        SIZED.replace(b"Length: 5", b"Length: -5"),
        SIZED.replace(b"Length: 5", b"Length: five"),
        CHUNKED.replace(b"3;x=y", b"x"),
        CHUNKED.replace(b"3;x=y", b"-1"),
        CHUNKED.replace(b"hel\r\n", b"hello"),
        CHUNKED.replace(b"chunked", b"gzip"),
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000,
    ],
    ids=range(11),
)
def test_what_is_no_response_is_none(data: bytes) -> None:
    with pytest.raises(NoResponse):
        read(data)


def test_a_body_without_a_length_ends_with_its_connection() -> None:
    reader = ResponseReader()
    assert reader.feed(b"HTTP/1.1 200 OK\r\n\r\nhel") is None
    assert reader.feed(b"lo") is None
    found = reader.end()
    assert found is not None
    assert (found.body, found.close) == (b"hello", True)


def test_a_connection_that_ends_in_the_middle_gave_none() -> None:
    for data in (SIZED[:-1], SIZED[:20], CHUNKED[:-4]):
        reader = ResponseReader()
        assert reader.feed(data) is None
        assert reader.end() is None


@given(st.lists(st.binary(max_size=60), max_size=8))
def test_no_bytes_do_more_than_not_be_a_response(parts: list[bytes]) -> None:
    reader = ResponseReader()
    try:
        for part in (b"HTTP/1.1 ", *parts):
            reader.feed(part)
        reader.end()
    except NoResponse:
        pass
