"""Hostile requests to a running `edge-agent serve`: each refused in the protocol's words, the memory bounded, the same process after."""

import contextlib
import gzip
import http.client
import json
import re
import socket
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.cloud_core.waiting import wait_for
from tests.edge_agent.test_agent import INPUT, exchange, program, running

MIB = 1 << 20
INFER = "/v2/models/double/infer"
CONNECTIONS = 48
BODIES_MIB = 64


class Target:
    """The agent, and its memory."""

    def __init__(self, agent) -> None:
        self.agent = agent
        self.port = agent.port
        self.pid = agent.process.pid

    def infer(self, **fields):
        return exchange(self.connection(), "POST", INFER, INPUT | fields, {})

    def connection(self, timeout=60):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def send(self, data, timeout=60) -> socket.socket:
        """A connection on which `data` was said, as far as the agent let it."""
        made = socket.create_connection(("127.0.0.1", self.port), timeout)
        with contextlib.suppress(ConnectionError, TimeoutError):
            made.sendall(data)
        return made

    def peak(self) -> int:
        """The most MiB it ever had resident."""
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii")
        return int(re.search(r"VmHWM:\s+(\d+)", status).group(1)) // 1024

    def forget(self) -> int:
        """Begin a new peak; what it is now, in MiB."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5", encoding="ascii")
        return self.peak()

    def told(self) -> dict:
        return self.agent.ask("GET", "/health")[2]

    def is_well(self) -> None:
        status, _, answer = self.infer()
        assert (status, answer["outputs"][0]["data"]) == (200, [2.0, 4.0])
        assert self.told()["pid"] == self.pid
        assert "Traceback" not in self.agent.said, self.agent.said


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    folder = tmp_path_factory.mktemp("agent")
    settings = {
        "EDGE_AGENT_HTTP_CONNECTIONS": str(CONNECTIONS),
        "EDGE_AGENT_HTTP_PATIENCE_S": "2",
        "EDGE_AGENT_HTTP_IDLE_S": "4",
        "EDGE_AGENT_HTTP_BODIES_BYTES": str(BODIES_MIB * MIB),
    }
    models = [str(program(folder / "double.onnx")), str(program(folder / "slow.onnx", loops=60))]
    with running("serve", *models, "--port", "0", folder=folder, **settings) as agent:
        made = Target(agent)
        made.is_well()
        yield made
        assert agent.process.poll() is None


@pytest.fixture(autouse=True)
def afterwards(target):
    target.is_well()
    yield
    wait_for(lambda: target.told()["connections"]["bodies_bytes"] == 0)
    target.is_well()


def chunks(piece, count):
    """A body of no declared length."""
    for _ in range(count):
        yield piece


LARGE = {
    "declared": lambda: bytes(100 * MIB),
    "chunked": lambda: chunks(bytes(MIB), 100),
    "squeezed": lambda: zlib.compress(bytes(100 * MIB), wbits=31),
    "squeezed to a thousandth": lambda: zlib.compress(bytes(300 * MIB), 9, wbits=31),
    "squeezed and far too large all the same": lambda: gzip.compress(bytes(17 * MIB), 0),
}


@pytest.mark.parametrize("name", LARGE)
def test_a_hundred_megabytes_are_refused_and_never_held(target, name):
    body = LARGE[name]()
    headers = {"Content-Type": "application/json"} | ({"Content-Encoding": "gzip"} if "squeezed" in name else {})
    before = target.forget()
    connection = target.connection()
    connection.request("POST", INFER, body, headers, encode_chunked=name == "chunked")
    answer = connection.getresponse()
    document = json.loads(answer.read())
    connection.close()
    assert (answer.status, set(document)) == (413, {"error"}), document
    # A body may have 16 MiB; it is held once as it came in and once in one piece.
    assert target.peak() - before < 64


def test_a_hundred_megabytes_that_never_come_are_refused_at_once(target):
    for line in ("", "Expect: 100-continue\r\n"):
        head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {100 * MIB}\r\n{line}\r\n"
        with target.send(head.encode()) as made:
            assert made.recv(16).startswith(b"HTTP/1.1 413")


def test_many_large_bodies_at_once_share_one_room(target):
    before = target.forget()
    began = threading.Barrier(24)
    head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {15 * MIB}\r\n\r\n".encode()

    def ask(_):
        began.wait(60)
        # One byte is left out, so that nobody is done and all are held as long as they may be.
        with target.send(head + b" " * (15 * MIB - 1)) as made:
            return made.recv(16)[9:12]

    with ThreadPoolExecutor(24) as pool:
        asking = list(pool.map(ask, range(24)))
    assert set(asking) <= {b"429", b"408"}, asking
    assert b"429" in asking
    assert target.peak() - before < BODIES_MIB + 64


AMPLIFIED = {
    "empty lists": b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"data":[' + b"[]," * (5 * MIB) + b"[]]}]}",
    "empty objects": b'{"parameters":{"a":[' + b"{}," * (5 * MIB) + b'{}]},"inputs":[]}',
    "empty texts": b'{"inputs":[{"name":"x","datatype":"BYTES","shape":[1],"data":[' + b'"",' * (5 * MIB) + b'""]}]}',
    "numbers": b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[' + b"1e9," * (3 * MIB) + b"0]}]}",
    "inputs": b'{"inputs":[' + b'{"name":"x","datatype":"FP32","shape":[],"data":[]},' * 300_000 + b"0]}",
    "depth": b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":' + b"[" * (15 * MIB) + b"1]}]}",
    "depth in the parameters": b'{"inputs":[],"parameters":{"a":' + b'{"a":' * (3 * MIB) + b"1" + b"}" * (MIB // 2),
}


@pytest.mark.parametrize("name", AMPLIFIED)
def test_json_that_grows_when_it_is_decoded_stays_bounded(target, name):
    body = AMPLIFIED[name]
    assert 14 * MIB < len(body) < 16 * MIB or name == "numbers"
    before = target.forget()

    def ask(_):
        connection = target.connection()
        connection.request("POST", INFER, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        found = answer.status, set(json.loads(answer.read()))
        connection.close()
        return found

    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(ask, range(3)))
    assert {status for status, _ in answers} <= {400, 413, 422}
    assert all(keys == {"error"} for _, keys in answers)
    # Three bodies are held; one at a time is decoded.
    assert target.peak() - before < 400, target.peak() - before


def test_slow_clients_hold_nothing_but_their_connections_and_lose_them(target):
    heads = (b"", b"P", b"POST " + INFER.encode() + b" HTTP/1.1\r\nHost: x\r\nX-Slow: ")
    bodies = (
        f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n".encode() + b"{" * 10,
        f"POST {INFER} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{{{{{{\r\n".encode(),
    )
    slow = [target.send(data) for data in (*heads, *bodies) for _ in range(4 * CONNECTIONS // 5)]
    # More than there may be at once, and whoever behaves is answered all the same.
    for _ in range(10):
        target.is_well()
    assert target.told()["connections"]["open"] <= CONNECTIONS + 1
    for made in slow:
        # Some were told that they are too slow; all of them have come to their end.
        with contextlib.suppress(ConnectionError):
            while made.recv(4096):
                pass
        made.close()
    assert target.told()["connections"]["open"] <= 2


def test_who_goes_away_leaves_no_work_behind(target):
    body = json.dumps(INPUT).encode()
    lines = "Host: x", f"Content-Length: {len(body)}", "X-Tideline-Deadline-Ms: 60000", "", ""
    head = "\r\n".join(("POST /v2/models/slow/infer HTTP/1.1", *lines)).encode()

    def depth():
        _, _, metrics = target.agent.ask("GET", "/metrics/json")
        return sum(sample["value"] for sample in metrics["tideline_queue_depth"]["samples"])

    gone = [target.send(head + body) for _ in range(20)]
    wait_for(lambda: depth() > 0)
    for made in gone:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        made.close()
    wait_for(lambda: depth() == 0)


def test_one_id_twice_in_flight_is_answered_twice(target):
    headers = {"X-Request-Id": "twin", "X-Tideline-Deadline-Ms": "60000"}

    def ask(_):
        connection = target.connection()
        answer = exchange(connection, "POST", "/v2/models/slow/infer", INPUT | {"id": "i"}, headers)
        return answer[0], answer[1]["X-Request-Id"], answer[2]["id"], answer[2]["outputs"][0]["data"]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, range(4))) == [(200, "twin", "i", [2.0, 4.0])] * 4


def test_http_1_0_is_answered(target):
    body = json.dumps(INPUT).encode()
    head = f"POST {INFER} HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with target.send(head + body) as made:
        said = b""
        while data := made.recv(65536):
            said += data
    assert said.startswith(b"HTTP/1.0 200")
    assert json.loads(said.partition(b"\r\n\r\n")[2])["outputs"][0]["data"] == [2.0, 4.0]
