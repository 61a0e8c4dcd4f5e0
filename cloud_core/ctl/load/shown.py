"""What a load found, as people read it and as programs do."""

from typing import Any

import msgspec
from rich.console import Group
from rich.table import Table
from rich.text import Text

from cloud_core.ctl.load.run import Found
from cloud_core.ctl.output import table
from cloud_core.decide.capacity import GAIN, Held, HeldWhy, Knee, KneeWhy, Step


def as_json(found: Found, about: dict[str, Any]) -> dict[str, Any]:
    """`about` is what was asked of whom."""
    steps = [
        {**msgspec.to_builtins(step), "throughput": step.throughput, "goodput": step.goodput} for step in found.steps
    ]
    return {
        **about,
        "steps": steps,
        **msgspec.to_builtins({"knee": found.knee, "held": found.held, "stopped": found.stopped}),
    }


def as_table(found: Found, *, bound_ms: float | None, cpu_of: str) -> Group:
    """A row for each step, then the knee and the rate that holds."""
    lines = [Text(_knee(found.knee))] if found.knee is not None else []
    if found.held is not None and bound_ms is not None:
        lines.append(Text(_held(found.held, bound_ms)))
    if found.stopped is not None:
        lines.append(Text(f"it ended early: {found.stopped}", style="yellow"))
    return Group(_steps(found, bound_ms, cpu_of), Text(""), *lines)


def _steps(found: Found, bound_ms: float | None, cpu_of: str) -> Table:
    is_open = any(step.rate is not None for step in found.steps)
    columns = [
        "CLIENTS",
        *(["OFFERED/S"] if is_open else []),
        "ANSWERED/S",
        *(["MEAN", "P50", "P95", "P99"]),
        *([f"WITHIN {bound_ms:g} MS"] if bound_ms is not None else []),
        "429",
        "ERRORS",
        f"CPU ({cpu_of})",
        "CPU (load)",
    ]
    return table(*columns, rows=[_row(step, is_open=is_open, bounded=bound_ms is not None) for step in found.steps])


def _row(step: Step, *, is_open: bool, bounded: bool) -> list[str]:
    latencies = (step.mean_ms, step.p50_ms, step.p95_ms, step.p99_ms)
    errors = ", ".join(f"{count} x {what}" for what, count in sorted(step.errors.items()))
    return [
        str(step.clients),
        *([("" if step.rate is None else f"{step.rate:.1f}")] if is_open else []),
        f"{step.throughput:.1f}",
        *("-" if value is None else _milliseconds(value) for value in latencies),
        *([f"{100 * step.inside / step.asked:.1f} %" if step.asked else "-"] if bounded else []),
        str(step.refused or "-"),
        errors or "-",
        f"{step.cpu:.2f}",
        f"{step.client_cpu:.2f}",
    ]


def _milliseconds(value: float) -> str:
    return f"{value:.2f} ms" if value < 10 else f"{value:.1f} ms" if value < 100 else f"{value:.0f} ms"


def _knee(knee: Knee) -> str:
    match knee.why:
        case KneeWhy.NOTHING:
            return "no knee: nothing was answered"
        case KneeWhy.LADDER_ENDS:
            return (
                f"no knee up to {knee.clients} clients ({knee.throughput:.1f} requests/s): "
                f"the last step still gained {100 * GAIN:.0f} % or more per doubling"
            )
        case KneeWhy.FLAT:
            return (
                f"knee: {knee.clients} clients, {knee.throughput:.1f} requests/s; "
                f"more clients gained less than {100 * GAIN:.0f} % per doubling"
            )


def _held(held: Held, bound_ms: float) -> str:
    if held.rate is None:
        return f"no rate tried holds a P99 of {bound_ms:g} ms"
    past = f"; {held.missed:.1f} did not" if held.why is HeldWhy.NEXT_MISSED and held.missed is not None else ""
    return f"largest rate that holds a P99 of {bound_ms:g} ms: {held.rate:.1f} requests/s{past}"
