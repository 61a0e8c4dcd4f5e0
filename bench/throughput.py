"""How much of what the session can do by hand is left once requests come over HTTP.

For each encoder (int8, 32 tokens, one sequence a request, ids as JSON tensors of the Open Inference Protocol, served from the plain ONNX
file), five interleaved rounds of: the agent at 1, 8, 32 and 64 clients; a handler that reads the body and answers a constant
(`bench.floor`) at the same; and the sessions by hand (`bench.inprocess`) that were best in a scan of 2 lanes x 1 thread and
1 lane x all threads, spinning or not, with batches of 1 to 32 rows. Then, beside a process that spins on one core, the agent at 32.

The goal is a share of what remains to be had at C clients with K cores:

* `limit`: rows/s of the best arrangement by hand that has at most C rows under way (lanes x rows <= C);
  `own`: its CPU seconds a row, spinning included.
* `transport`: CPU seconds a request of the null handler and of the client, which runs on the same cores.
* With C > 1 the cores can work on one request's transport while they compute another's, so what remains is
  min(limit, K / (own + transport)): the same CPU time, of which transport takes its part.
* With C = 1 one thing happens after the other: 1 / (1 / limit + transport).

The CPU of the agent itself, beyond the null handler's, is not subtracted: that is what is measured. `*_text_*` is the same encoder
served as a text classifier, tokenizing its texts, at 64 clients; it has no goal, since no session by hand tokenizes.
"""

import contextlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from bench import encoders, inprocess, rounds
from bench.client import Load, Measured, measure, request
from bench.encoder_graph import INPUTS
from bench.findings import Findings
from bench.inprocess import Cell
from bench.result import Result
from bench.servers import edge_agent, edge_arguments, end, started
from shared.io.free_ports import find_ports

TOKENS = 32
CLIENTS = (1, 8, 32, 64)
BUSY_AT = 32
ROWS = (1, 2, 4, 8, 16, 32)
QUICK_ROWS = (1, 16)
TEXTS = 64
SHARE = {"small": 0.90, "base": 0.95}
BUSY_SHARE = 0.60
SECONDS = {"small": 2.0, "base": 4.0}
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
SPIN = "while True: pass"


class _Turn(NamedTuple):
    """One thing that is measured in every round."""

    kind: str
    clients: int = 0
    cell: Cell | None = None

    @property
    def name(self) -> str:
        return f"{self.kind}_{self.cell.name}" if self.cell else f"{self.kind}_c{self.clients}"


class _Seen(NamedTuple):
    """Requests per second, CPU seconds a request of the server and the client, p99 in milliseconds; the share of errors."""

    rate: float
    cpu: float
    p99: float = math.nan
    errors: float = 0.0


def ids_body(row: list[int]) -> bytes:
    """One sequence as the program's three inputs, in the protocol's JSON."""
    found = encoders.feeds([row])
    inputs = [
        {"name": name, "shape": list(value.shape), "datatype": "INT64", "data": value.ravel().tolist()}
        for name, value in found.items()
    ]
    return json.dumps({"inputs": inputs}, separators=(",", ":")).encode()


def text_body(text: str) -> bytes:
    """One text, in the protocol's JSON."""
    inputs = [{"name": "text", "shape": [1], "datatype": "BYTES", "data": [text]}]
    return json.dumps({"inputs": inputs}, ensure_ascii=False, separators=(",", ":")).encode()


@contextlib.contextmanager
def busy_neighbour() -> Iterator[None]:
    """A process that keeps one core busy, of the same priority, wherever the scheduler puts it."""
    spinning = subprocess.Popen([sys.executable, "-c", SPIN])
    try:
        yield
    finally:
        end(spinning)


def run() -> Result:
    """Both encoders, one after the other."""
    findings = Findings()
    findings.notes += [f"the agent's flags: {edge_arguments() or 'none'}", f"cores: {CORES}"]
    for name in SHARE:
        _one(encoders.encoder(name), findings)
    return findings.result("throughput")


def _one(encoder: encoders.Encoder, findings: Findings) -> None:
    name = encoder.shape.name
    edge, words, floor = (port := find_ports("127.0.0.1", 3)), port + 1, port + 2
    texts = encoders.texts(TEXTS, tokens=TOKENS)
    by_ids = tuple(request(f"/v2/models/{encoder.int8.stem}/infer", ids_body(encoders.ids(text))) for text in texts)
    by_text = tuple(request(f"/v2/models/{name}/infer", text_body(text)) for text in texts)
    nothing = tuple(request("/null", ids_body(encoders.ids(text))) for text in texts)
    best = _best(encoder)
    turns = [
        *(_Turn("edge", clients) for clients in CLIENTS),
        *(_Turn("null", clients) for clients in CLIENTS),
        *(_Turn("hand", cell=cell) for cell in dict.fromkeys(best.values())),
        _Turn("text", max(CLIENTS)),
        _Turn("busy", BUSY_AT),
    ]
    of_name = {turn.name: turn for turn in turns}
    with (
        started(edge_agent([encoder.int8], port=edge), port=edge, first=by_ids[0]) as serving,
        started(edge_agent([encoder.bundle], port=words), port=words, first=by_text[0]) as reading,
        started([sys.executable, "-m", "bench.floor", str(floor)], port=floor, first=nothing[0]) as nulls,
    ):
        loads = {
            "edge": Load(requests=by_ids, port=edge, pids=(serving.pid,), seconds=rounds.seconds(SECONDS[name])),
            "null": Load(requests=nothing, port=floor, pids=(nulls.pid,), seconds=rounds.seconds(0.8)),
            "text": Load(requests=by_text, port=words, pids=(reading.pid,), seconds=rounds.seconds(SECONDS[name])),
        }
        loads["busy"] = loads["edge"]

        def one(turn_name: str) -> _Seen:
            turn = of_name[turn_name]
            if turn.cell:
                hand = inprocess.measure(msgspec.structs.replace(turn.cell, seconds=rounds.seconds(SECONDS[name])))
                return _Seen(hand.rate, hand.cpu)
            load = loads[turn.kind]
            sized = msgspec.structs.replace(load, connections=turn.clients, warm=load.seconds / 4)
            with busy_neighbour() if turn.kind == "busy" else contextlib.nullcontext():
                return _seen(measure(sized))

        found = rounds.interleaved([turn.name for turn in turns], one)
    for clients in CLIENTS:
        _compare(name, clients, best[clients], found, findings)
    findings.figure(f"{name}_text_c{max(CLIENTS)}_rate", [each.rate for each in found[f"text_c{max(CLIENTS)}"]])
    quiet, busy = ([each.rate for each in found[f"{kind}_c{BUSY_AT}"]] for kind in ("edge", "busy"))
    findings.ratio(f"{name}_busy_share", busy, quiet, goal=(">=", BUSY_SHARE))
    errors = [each.errors for turn in turns for each in found[turn.name]]
    findings.metrics[f"{name}_most_errors"] = max(errors)
    findings.goals[f"{name}_most_errors"] = ("<=", 0.0)


def _best(encoder: encoders.Encoder) -> dict[int, Cell]:
    """By number of clients, the fastest arrangement by hand that has no more rows under way; from one short look at each."""
    inputs = tuple((name, (TOKENS,)) for name in INPUTS)
    seconds = rounds.seconds(0.6 if encoder.shape.name == "small" else 1.2)
    tried = QUICK_ROWS if rounds.is_quick() else ROWS
    cells = [
        Cell(
            program=str(encoder.int8),
            inputs=inputs,
            lanes=lanes,
            threads=threads,
            rows=rows,
            spinning=spinning,
            seconds=seconds,
        )
        for lanes, threads, spinning in dict.fromkeys(
            ((CORES, 1, False), (1, CORES, False), (1, CORES, True), (1, 1, False))
        )
        for rows in (tried if lanes * threads == CORES else tried[:1])
    ]
    rates = {cell: inprocess.measure(cell).rate for cell in cells}
    return {
        clients: max((cell for cell in cells if cell.in_flight <= clients), key=rates.__getitem__)
        for clients in CLIENTS
    }


def _compare(name: str, clients: int, best: Cell, found: dict[str, list[_Seen]], findings: Findings) -> None:
    hand, nulls, served = found[f"hand_{best.name}"], found[f"null_c{clients}"], found[f"edge_c{clients}"]
    remaining = [
        1 / (1 / by.rate + null.cpu) if clients == 1 else min(by.rate, CORES / (by.cpu + null.cpu))
        for by, null in zip(hand, nulls, strict=True)
    ]
    at = f"{name}_c{clients}"
    findings.figure(f"{at}_rate", [each.rate for each in served])
    findings.figure(f"{at}_p99_ms", [each.p99 for each in served])
    findings.figure(f"{at}_cpu_us", [each.cpu * 1e6 for each in served])
    findings.figure(f"{at}_transport_us", [each.cpu * 1e6 for each in nulls])
    findings.figure(f"{at}_by_hand", [each.rate for each in hand])
    findings.figure(f"{at}_remaining", remaining)
    findings.ratio(f"{at}_share", [each.rate for each in served], remaining, goal=(">=", SHARE[name]))
    findings.notes.append(f"{name}, {clients} clients: best by hand is {best.name}")


def _seen(found: Measured) -> _Seen:
    failed = sum(found.errors.values())
    cpu = (found.client_cpu + found.server_cpu) / found.answers if found.answers else math.nan
    return _Seen(found.rate, cpu, found.p99, failed / max(1, failed + found.answers))
