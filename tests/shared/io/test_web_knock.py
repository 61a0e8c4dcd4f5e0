"""What is read without a parser is what the parser reads: same path, same fields, same end."""

import asyncio

from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpProcessingError, HttpRequestParser
from hypothesis import example, given
from hypothesis import strategies as st

from shared.io.web_knock import Knock, knock_of

WANTED = ("X-Request-Id", "X-Tideline-Deadline-Ms")
BODY = b'{"input_text": "hello"}'


def request(*lines: bytes, path: bytes = b"/predict", body: bytes = BODY, length: object = None) -> bytes:
    fields = (b"Host: a", b"Content-Length: %d" % (len(body) if length is None else length), *lines)
    return b"POST %b HTTP/1.1\r\n%b\r\n\r\n%b" % (path, b"\r\n".join(fields), body)


def parsed(data: bytes) -> Knock | None:
    """The one whole request that aiohttp's parser finds in `data`, and nothing after it."""
    loop = asyncio.new_event_loop()
    try:
        parser = HttpRequestParser(BaseProtocol(loop), loop, 2**16, max_line_size=8190, max_field_size=8190)
        messages, upgraded, tail = parser.feed_data(data)
        if len(messages) != 1 or upgraded or tail:
            return None
        message, payload = messages[0]
        if message.should_close or message.chunked or not payload.is_eof() or message.method != "POST":
            return None
        body = payload.read_nowait(-1)
        fields = {name: message.headers[name] for name in WANTED if name in message.headers}
        return Knock(message.path, len(body), fields)
    except HttpProcessingError:
        return None
    finally:
        loop.close()


def test_a_plain_request_is_read():
    data = request(b"x-request-id:  abc ", b"X-Tideline-Deadline-Ms: 250", b"Connection: Keep-Alive")
    knock = knock_of(data, WANTED)
    assert knock == Knock(
        "/predict", len(BODY), {"X-Request-Id": "abc", "X-Tideline-Deadline-Ms": "250"}
    ) == parsed(data)  # fmt: skip


ODD = {
    "a part of one": request()[:-1],
    "two": request() * 2,
    "one and a bit": request() + b"P",
    "only a head": request(body=b"", length=5),
    "chunked": request(b"Transfer-Encoding: chunked"),
    "with a second length": request(b"content-length: 23"),
    "that expects": request(b"Expect: 100-continue"),
    "that upgrades": request(b"Connection: Upgrade", b"Upgrade: h2c"),
    "that closes": request(b"Connection: close"),
    "compressed": request(b"Content-Encoding: gzip"),
    "folded": request(b"X-A: b\r\n c"),
    "a blank before the colon": request(b"Content-Length : 23"),
    "a bare line feed": request(b"X-A: b\nX-B: c"),
    "a zero byte": request(b"X-A: \0"),
    "a length that is none": request(b"X: y").replace(b"Length: 23", b"Length: +23"),
    "a huge length": request(length=10**30),
    "another method": request().replace(b"POST", b"GET"),
    "another version": request().replace(b"1.1", b"1.0"),
    "a blank in the path": request(path=b"/a b"),
    "a query": request(path=b"/predict?a=b"),
    "an encoded path": request(path=b"/pr%65dict"),
    "a path beyond ASCII": request(path="/é".encode()),
    "no fields": b"POST / HTTP/1.1\r\n\r\n",
    "no host": request().replace(b"Host", b"Most"),
    "two hosts": request(b"Host: b"),
    "nothing": b"",
}


def test_whatever_takes_a_parser_is_left_to_it():
    assert [name for name, data in ODD.items() if knock_of(data, WANTED) is not None] == []


pieces = st.sampled_from(
    [
        b"\r\n",
        b"\n",
        b"\r",
        b" ",
        b":",
        b"\0",
        b"\t",
        b"Content-Length: 3",
        b"Transfer-Encoding: chunked",
        b"a",
        b"0",
        b",",
    ]
)


@given(st.lists(st.tuples(st.integers(0, 140), st.integers(0, 3), pieces), max_size=4), st.binary(max_size=12))
@example([(16, 0, b"a")], b"")
@example([(45, 1, b"0")], b"")
def test_what_is_read_without_a_parser_the_parser_reads_alike(changes, body):
    data = request(b"X-Request-Id: abc", b"X-Tideline-Deadline-Ms: 250", body=body)
    for at, cut, piece in changes:
        data = data[:at] + piece + data[at + cut :]
    knock = knock_of(data, WANTED)
    if knock is not None:
        assert knock == parsed(data)
