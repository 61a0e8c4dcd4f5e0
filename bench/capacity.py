"""What a person who runs `fleetctl load` against an edge agent sees: the shipped `sentiment-zh`, 1 to 1000 clients, a P99 of 100 ms.

The command runs as a process of its own, with the examples' sentences (`bench.chinese_texts`) one a line, and watches the agent's
process (`--pid`). Its table goes to `bench/results/capacity.txt`, its picture to `bench/results/capacity.png`. There is no goal but that
the tool works: every step ran and no request failed. Requests that are shed (429) or miss the agent's own deadline (504) are told of in
the table; they are what a server does that is asked for too much.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec
from rich.console import Console

from bench import rounds
from bench.chinese_texts import chinese_texts
from bench.client import request
from bench.result import QUICK, RESULTS, Result
from bench.servers import edge_agent, edge_arguments, started
from cloud_core.ctl.load.command import LADDER
from cloud_core.ctl.load.run import Found
from cloud_core.ctl.load.shown import as_table
from cloud_core.models.shipped import shipped_models
from shared.io.free_ports import find_ports

MODEL, TEXTS, CHARACTERS = "sentiment-zh", 200, 50
P99_MS = 100.0
SECONDS, WARM_S = 4.0, 1.0
QUICK_LADDER = "1,2,8,64,1000"
LIMIT_S = 280.0


def run() -> Result:
    """Start an agent, load it, stop it."""
    folder = QUICK if rounds.is_quick() else RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    bundle = next(path for path in shipped_models() if path.name == MODEL)
    texts = chinese_texts(TEXTS, characters=CHARACTERS)
    first = request("/predict", json.dumps({"model": MODEL, "input_text": texts[0]}).encode())
    port = find_ports("127.0.0.1")
    ladder = QUICK_LADDER if rounds.is_quick() else LADDER
    with (
        tempfile.TemporaryDirectory() as made,
        started(edge_agent([bundle], port=port), port=port, first=first) as server,
    ):
        lines, picture = Path(made) / "texts.txt", Path(made) / "capacity.png"
        lines.write_text("\n".join(texts))
        flags = {
            "model": MODEL,
            "texts": lines,
            "clients": ladder,
            "seconds": rounds.seconds(SECONDS),
            "warm-up-s": rounds.seconds(WARM_S),
            "p99-ms": P99_MS,
            "pid": server.pid,
            "png": picture,
        }
        command = [sys.executable, "-m", "cloud_core.ctl", "load", f"http://127.0.0.1:{port}"]
        command += [*(f"--{name}={value}" for name, value in flags.items()), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
        if done.returncode:
            raise RuntimeError(f"fleetctl load ended with status {done.returncode}: {done.stderr.strip()[-500:]}")
        shutil.copyfile(picture, folder / "capacity.png")
    found = msgspec.convert(json.loads(done.stdout), Found)
    _write_table(found, folder / "capacity.txt")
    return _result(found, ladder)


def _write_table(found: Found, path: Path) -> None:
    with path.open("w") as file:
        Console(file=file, width=200).print(as_table(found, bound_ms=P99_MS, cpu_of="server"))


def _result(found: Found, ladder: str) -> Result:
    closed = [step for step in found.steps if step.rate is None]
    peak = max(closed, key=lambda step: step.throughput)
    metrics = {
        "peak_requests_per_s": peak.throughput,
        "peak_clients": float(peak.clients),
        "most_clients": float(closed[-1].clients),
        "most_clients_share_of_peak": closed[-1].throughput / peak.throughput,
        "one_client_p50_ms": closed[0].p50_ms or float("nan"),
        "one_client_p99_ms": closed[0].p99_ms or float("nan"),
        "p99_held_ms": P99_MS,
        "p99_held_at_requests_per_s": found.held.rate or 0.0 if found.held else 0.0,
        "peak_server_cores": peak.cpu,
        "peak_client_cores": peak.client_cpu,
        "refused": float(sum(step.refused for step in found.steps)),
        "deadline_missed": float(sum(step.errors.get("504", 0) for step in found.steps)),
        "failed": float(sum(count for step in found.steps for what, count in step.errors.items() if what != "504")),
        "steps_missing": float(len(ladder.split(",")) - len(closed)),
    }
    if found.knee is not None and found.knee.clients is not None:
        metrics |= {"knee_clients": float(found.knee.clients), "knee_requests_per_s": found.knee.throughput}
    notes = [f"the agent's flags: {edge_arguments() or 'none'}", "table in capacity.txt, picture in capacity.png"]
    if found.knee is not None:
        notes.append(f"knee: {found.knee.why.value}")
    if found.stopped:
        notes.append(f"the ladder ended early: {found.stopped}")
    return Result(
        name="capacity",
        metrics=metrics,
        goals={"failed": ("<=", 0.0), "steps_missing": ("<=", 0.0)},
        notes=tuple(notes),
    )
