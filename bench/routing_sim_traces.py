"""What the routing simulator replays: traces of requests, and recorded service times.

A trace is a file of one JSON object a line: `arrival` and `deadline` in seconds (the deadline counted from the arrival), `tokens`.
`python -m bench.routing_sim_traces` makes the ones in `bench/traces` again, each from its seed; with `record` it also runs `base` (int8,
one thread) by hand and writes what each run took to `service_times.json`. Those runs are the only figures here that depend on a machine.
"""

import bisect
import json
import math
import os
import random
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from bench.result import machine
from shared.protocol.errors import Refused

FOLDER = Path(__file__).parent / "traces"
SERVICE_TIMES = FOLDER / "service_times.json"
REQUESTS = 600
LENGTHS = (8, 16, 32, 48, 64, 96, 128, 192, 256)
RUNS = 15


class Arrival(msgspec.Struct, frozen=True):
    """One line of a trace; seconds."""

    arrival: float
    tokens: int
    deadline: float


class ServiceTimes(msgspec.Struct, frozen=True):
    """Sorted seconds of single runs, by the text's tokens."""

    model: str
    machine: dict[str, object]
    seconds: dict[int, tuple[float, ...]]

    def of(self, tokens: int, u: float) -> float:
        """The `u`-quantile of a run of `tokens` tokens: between the recorded lengths next to it, in proportion beyond them."""
        lengths = sorted(self.seconds)
        if tokens <= lengths[0]:
            return self._at(lengths[0], u)
        if tokens >= lengths[-1]:
            return self._at(lengths[-1], u) * tokens / lengths[-1]
        i = bisect.bisect_left(lengths, tokens)
        low, high = lengths[i - 1], lengths[i]
        share = (tokens - low) / (high - low)
        return (1 - share) * self._at(low, u) + share * self._at(high, u)

    def mean(self, tokens: int) -> float:
        """Seconds of a run of `tokens` tokens on average."""
        return math.fsum(self.of(tokens, (i + 0.5) / RUNS) for i in range(RUNS)) / RUNS

    def _at(self, length: int, u: float) -> float:
        runs = self.seconds[length]
        return runs[min(len(runs) - 1, int(u * len(runs)))]


def read(path: Path) -> tuple[Arrival, ...]:
    """The requests of a trace, in order of arrival.

    Raises:
        Refused: a line is none, or the file has none.

    """
    found = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip():
            continue
        try:
            one = msgspec.json.decode(line, type=Arrival)
        except msgspec.DecodeError as error:
            raise Refused(f"no request: {error}", field=f"{path.name}:{number}", value=line[:80]) from error
        if not (one.arrival >= 0 and one.tokens > 0 and one.deadline > 0):
            raise Refused(
                "impossible request", field=f"{path.name}:{number}", value=line[:80], allowed="positive numbers"
            )
        found.append(one)
    if not found:
        raise Refused("an empty trace", field=path.name, allowed="one JSON object a line: arrival, tokens, deadline")
    return tuple(sorted(found, key=lambda each: each.arrival))


def service_times(path: Path = SERVICE_TIMES) -> ServiceTimes:
    """The recorded runs."""
    return msgspec.json.decode(path.read_bytes(), type=ServiceTimes)


def at_load(trace: Sequence[Arrival], load: float, times: ServiceTimes, *, lanes: int = 1) -> list[Arrival]:
    """The trace with its arrivals drawn together or apart, until its work is `load` times what `lanes` lanes can do; deadlines stay."""
    work = math.fsum(times.mean(each.tokens) for each in trace) / lanes
    span = max(each.arrival for each in trace) or 1.0
    return [Arrival(each.arrival * work / (load * span), each.tokens, each.deadline) for each in trace]


def made(name: str, *, count: int = REQUESTS) -> list[Arrival]:
    """One of the project's own traces: `steady`, `bursts` or `day`."""
    source = random.Random(name)
    found = []
    for arrival in _arrivals(name, source, count):
        tokens = min(256, max(8, round(48 * math.exp(source.gauss(0.0, 0.7)))))
        found.append(Arrival(round(arrival, 4), tokens, 1.0 if source.random() < 0.7 else 0.5))
    return found


def _arrivals(name: str, source: random.Random, count: int) -> Iterator[float]:
    """Poisson arrivals of a rate that changes with time, by thinning."""
    when, given, most = 0.0, 0, 130.0
    while given < count:
        when += source.expovariate(most)
        if source.random() * most < _rate(name, when, count):
            given += 1
            yield when


def _rate(name: str, when: float, count: int) -> float:
    match name:
        case "steady":
            return 30.0
        case "bursts":
            # A second and a half at five times the rate between, every seven seconds.
            return 90.0 if when % 7.0 < 1.5 else 18.0
        case "day":
            # One day is as long as the trace.
            return 30.0 * (1.0 - 0.85 * math.cos(2 * math.pi * when * 30.0 / count))
    raise ValueError(f"no such trace: {name}")


NAMES = ("steady", "bursts", "day")


def record() -> ServiceTimes:
    """Run `base` by hand."""
    # Here and not above: replaying needs neither.
    import onnxruntime  # noqa: PLC0415

    from bench import encoders  # noqa: PLC0415

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(encoders.encoder("base").int8), options)
    found: dict[int, tuple[float, ...]] = {}
    for length in LENGTHS:
        feeds = encoders.feeds([encoders.ids(encoders.texts(1, tokens=length)[0])])
        session.run(None, feeds)
        runs = []
        for _ in range(RUNS):
            began = time.perf_counter()
            session.run(None, feeds)
            runs.append(round(time.perf_counter() - began, 6))
        found[length] = tuple(sorted(runs))
    return ServiceTimes("base int8, one thread, one text", {**machine(), "load": os.getloadavg()[0]}, found)


def main(arguments: list[str]) -> int:
    """Write the traces, and with `record` the service times."""
    FOLDER.mkdir(exist_ok=True)
    for name in NAMES:
        lines = [json.dumps(msgspec.to_builtins(each)) for each in made(name)]
        (FOLDER / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    if "record" in arguments:
        SERVICE_TIMES.write_bytes(msgspec.json.format(msgspec.json.encode(record()), indent=1) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
