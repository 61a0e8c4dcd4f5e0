"""What one benchmark found, against its goals; written to `bench/results/<name>.json` and shown as a table."""

import json
import math
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Column, Table

from bench.rounds import Interval, is_quick

RESULTS = Path(__file__).parent / "results"
QUICK = Path(__file__).parent / ".cache" / "quick"
PACKAGES = ("onnxruntime", "aiohttp", "numpy", "msgspec", "tokenizers", "uvloop")
Goal = tuple[str, float]


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """`metrics` by name; `goals` by the name of the metric they bind: an operator (">=", "<=", ">" or "<") and the value.

    `intervals` are 95 % ones, by the name of their metric; `interval_goals` bind a whole interval. `notes` say what no number
    does, such as which contestant is missing and why. `versions`: of what runs in other environments, by environment.
    A goal that a quick run misses or meets says nothing.
    """

    name: str
    metrics: dict[str, float]
    goals: dict[str, Goal]
    intervals: dict[str, Interval] = {}
    interval_goals: dict[str, Goal] = {}
    notes: tuple[str, ...] = ()
    versions: dict[str, dict[str, str]] = {}

    def missed(self) -> list[str]:
        """The goals that are not met, a goal whose metric is missing or no number among them."""
        return [
            *(name for name, goal in self.goals.items() if not _meets(self.metrics.get(name, math.nan), goal)),
            *(f"{name} (interval)" for name, goal in self.interval_goals.items() if not self._contained(name, goal)),
        ]

    def write(self, folder: Path = RESULTS) -> Path:
        """Write the result with the facts of this machine."""
        folder = QUICK if is_quick() else folder
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.name}.json"
        document = {
            "name": self.name,
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "machine": machine(),
            "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
            "other_versions": self.versions,
            "metrics": {name: _number(value) for name, value in self.metrics.items()},
            "intervals": {name: [_number(each.low), _number(each.high)] for name, each in self.intervals.items()},
            "goals": {name: list(goal) for name, goal in self.goals.items()},
            "interval_goals": {name: list(goal) for name, goal in self.interval_goals.items()},
            "missed": self.missed(),
            "notes": list(self.notes),
        }
        path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
        return path

    def show(self, console: Console) -> None:
        """Print every metric, and whether its goal is met."""
        title = self.name + (" (quick: no measurement)" if is_quick() else "")
        table = Table(Column("metric", no_wrap=True, overflow="fold"), "value", "95 %", "goal", "", title=title)
        missed = set(self.missed())
        for name in (*self.metrics, *(each for each in self.goals if each not in self.metrics)):
            interval = self.intervals.get(name)
            told = f"{interval.low:.4g} to {interval.high:.4g}" if interval else ""
            wanted = [
                *([" ".join((self.goals[name][0], f"{self.goals[name][1]:g}"))] if name in self.goals else []),
                *(
                    [f"all {self.interval_goals[name][0]} {self.interval_goals[name][1]:g}"]
                    if name in self.interval_goals
                    else []
                ),
            ]
            verdict = "MISSED" if {name, f"{name} (interval)"} & missed else "met" if wanted else ""
            table.add_row(name, f"{self.metrics.get(name, math.nan):.4g}", told, ", ".join(wanted), verdict)
        console.print(table)
        for note in self.notes:
            console.print(f"- {note}", highlight=False, markup=False)

    def _contained(self, name: str, goal: Goal) -> bool:
        found = self.intervals.get(name)
        return found is not None and _meets(found.low, goal) and _meets(found.high, goal)


def machine() -> dict[str, object]:
    """The facts a figure is worthless without."""
    model = "unknown"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = (line.partition(":") for line in cpuinfo.read_text().splitlines())
        model = next((value.strip() for name, _, value in lines if name.strip() == "model name"), model)
    return {"cpu": model, "cores": os.cpu_count(), "system": platform.platform()}


def _meets(value: float, goal: Goal) -> bool:
    operator, wanted = goal
    match operator:
        case ">=":
            return value >= wanted
        case "<=":
            return value <= wanted
        case ">":
            return value > wanted
        case "<":
            return value < wanted
    raise ValueError(f"no such operator: {operator}")


def _number(value: float) -> float | None:
    # JSON has no NaN.
    return round(value, 6) if math.isfinite(value) else None
