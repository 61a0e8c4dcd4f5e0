"""The picture of a load: throughput with the knee, latencies with the bound, processor time. Drawn by matplotlib, an extra."""

import io
from pathlib import Path
from typing import Any

from cloud_core.ctl.load.run import Found
from cloud_core.decide.capacity import KneeWhy
from shared.protocol.errors import Refusal, Refused

SIZE, DOTS_PER_INCH = (8.0, 9.0), 120


def check(file: Path) -> None:
    """Whether a picture could be drawn and written there, asked before the load runs.

    Raises:
        Refused: matplotlib is not installed, or there is no such folder.

    """
    _figure()
    if not file.parent.is_dir() or file.is_dir():
        raise Refused("cannot be written", field="--png", value=str(file), allowed="a file in a folder that is there")


def write(file: Path, found: Found, *, title: str, bound_ms: float | None, cpu_of: str) -> None:
    """Draw `found`.

    Raises:
        Refused: matplotlib is not installed, or the file cannot be written.

    """
    drawn = io.BytesIO()
    figure = _drawn(found, title=title, bound_ms=bound_ms, cpu_of=cpu_of)
    figure.savefig(drawn, format="png", dpi=DOTS_PER_INCH)
    try:
        file.write_bytes(drawn.getvalue())
    except OSError as error:
        raise Refused(f"cannot be written: {error.strerror}", field="--png", value=str(file)) from error


def _figure() -> Any:
    # Here and not above: it takes half a second, and fleetctl works without it.
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError as error:
        raise Refused(
            "drawing needs matplotlib, which is not installed",
            kind=Refusal.UNSUPPORTED,
            field="--png",
            allowed="pip install 'tideline[load]'",
        ) from error
    return Figure(figsize=SIZE, layout="constrained")


def _drawn(found: Found, *, title: str, bound_ms: float | None, cpu_of: str) -> Any:
    closed = [step for step in found.steps if step.rate is None]
    steps = closed or list(found.steps)
    xs = [float(step.clients if step.rate is None else step.rate) for step in steps]
    figure = _figure()
    throughput, latency, cpu = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 2))
    # The font that comes with matplotlib has no Chinese: it would say so on the error stream.
    figure.suptitle(title.encode("ascii", "replace").decode())
    throughput.plot(xs, [step.throughput for step in steps], marker="o", label="answered")
    if not closed:
        throughput.plot(xs, xs, linestyle=":", color="grey", label="offered")
    if any(step.refused or step.errors for step in steps):
        lost = [(step.asked - step.answered) / step.seconds for step in steps]
        throughput.plot(xs, lost, marker="x", color="tab:red", label="refused or failed")
    if found.knee is not None and found.knee.why is KneeWhy.FLAT and found.knee.clients is not None:
        throughput.axvline(
            found.knee.clients, linestyle="--", color="grey", label=f"knee: {found.knee.clients} clients"
        )
    if found.held is not None and found.held.rate is not None:
        said = f"holds P99 {bound_ms:g} ms: {found.held.rate:.0f}/s"
        throughput.axhline(found.held.rate, linestyle="-.", color="tab:green", label=said)
    throughput.set_ylabel("requests per second")
    throughput.set_ylim(bottom=0)
    for name in ("p50_ms", "p95_ms", "p99_ms"):
        latency.plot(xs, [getattr(step, name) for step in steps], marker="o", label=name.removesuffix("_ms"))
    if bound_ms is not None:
        latency.axhline(bound_ms, linestyle="--", color="grey", label=f"{bound_ms:g} ms")
    if any(step.p50_ms is not None for step in steps):
        latency.set_yscale("log")
    latency.set_ylabel("latency of answers, ms")
    cpu.plot(xs, [step.cpu for step in steps], marker="o", label=cpu_of)
    cpu.plot(xs, [step.client_cpu for step in steps], marker="x", label="load itself")
    cpu.set_ylabel("cores busy")
    cpu.set_ylim(bottom=0)
    cpu.set_xlabel("clients" if closed else "requests offered per second")
    if closed:
        cpu.set_xscale("log", base=2)
        cpu.set_xticks(xs, [f"{x:g}" for x in xs], minor=False)
        cpu.minorticks_off()
    for each in (throughput, latency, cpu):
        each.grid(visible=True, alpha=0.3)
        each.legend()
    return figure
