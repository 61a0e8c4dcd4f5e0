"""The load client against servers that answer in every way a real one may: what it counts is what was answered."""

import asyncio
import contextlib
import os

import pytest

from bench.client import Load, measure, request
from shared.io.free_ports import find_ports

PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
BUSY = b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
CLOSING = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi"
ENDLESS = b"HTTP/1.0 200 OK\r\n\r\nhi"


@contextlib.asynccontextmanager
async def serving(*answers, socket="", split=False, closes=False):
    """A server that gives these answers in turn; what it yields counts the requests whose body came whole."""
    counted = {"requests": 0}

    async def handle(reader, writer):
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0])
                assert await reader.readexactly(length) == b"body"
                answer = answers[counted["requests"] % len(answers)]
                counted["requests"] += 1
                writer.write(answer[: len(answer) // 2] if split else answer)
                if split:
                    await writer.drain()
                    await asyncio.sleep(0)
                    writer.write(answer[len(answer) // 2 :])
                if closes:
                    break
        writer.close()

    if socket:
        server = await asyncio.start_unix_server(handle, socket)
        port = 0
    else:
        port = find_ports("127.0.0.1")
        server = await asyncio.start_server(handle, "127.0.0.1", port)
    try:
        yield port, counted
    finally:
        server.close()


def measured(load_of, *answers, **how):
    """What the client measured, and the requests that the server counted."""

    async def main():
        async with serving(*answers, **how) as (port, counted):
            found = await asyncio.to_thread(measure, load_of(port))
            return found, counted["requests"]

    return asyncio.run(main())


def asked(**more):
    return Load(requests=(request("/x", b"body"),), seconds=5.0, warm=0.0, **more)


@pytest.mark.parametrize("connections", [1, 7])
@pytest.mark.parametrize(
    ("answer", "how"),
    [
        (PLAIN, {}),
        (PLAIN, {"split": True}),
        (CHUNKED, {}),
        (CLOSING, {"closes": True}),
        (ENDLESS, {"closes": True}),
    ],
)
def test_every_form_of_a_good_answer_counts(answer, how, connections):
    found, requests = measured(lambda port: asked(port=port, connections=connections, count=50), answer, **how)
    assert found.answers >= 50
    assert found.errors == {}
    assert requests >= found.answers
    assert 0 < found.p50 <= found.p95 <= found.p99
    assert found.client_cpu > 0


def test_errors_are_counted_by_status_and_are_no_answers():
    found, _ = measured(lambda port: asked(port=port, count=50), PLAIN, BUSY)
    assert found.answers >= 50
    assert set(found.errors) == {"429"}
    assert abs(found.errors["429"] - found.answers) <= 1


def test_a_unix_socket_is_as_good(tmp_path):
    path = str(tmp_path / "s")
    found, requests = measured(lambda _: asked(uds=path, count=20), PLAIN, socket=path)
    assert found.answers >= 20
    assert requests >= 20


def test_the_server_s_cpu_is_read():
    found, _ = measured(lambda port: asked(port=port, count=4000, pids=(os.getpid(),)), PLAIN)
    assert found.server_cpu > 0


def test_a_server_that_is_not_there_is_told_of():
    port = find_ports("127.0.0.1")
    with pytest.raises(RuntimeError, match="ConnectionRefusedError"):
        measure(asked(port=port))
