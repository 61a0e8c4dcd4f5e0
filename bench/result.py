"""What one benchmark found, against its goals; written to `bench/results/<name>.json` and shown as a table."""

import json
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("onnxruntime", "aiohttp", "numpy", "msgspec", "tokenizers")


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """`metrics` by name; `goals` by the name of the metric they bind: an operator (">=" or "<=") and the value."""

    name: str
    metrics: dict[str, float]
    goals: dict[str, tuple[str, float]]

    def write(self) -> Path:
        """Write the result with the facts of this machine."""
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{self.name}.json"
        document = {
            "name": self.name,
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "machine": machine(),
            "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
            "metrics": {name: round(value, 6) for name, value in self.metrics.items()},
            "goals": {name: list(goal) for name, goal in self.goals.items()},
        }
        path.write_text(json.dumps(document, indent=2) + "\n")
        return path

    def show(self, console: Console) -> None:
        """Print every metric, and whether its goal is met."""
        table = Table("metric", "value", "goal", "", title=self.name)
        for name, value in self.metrics.items():
            operator, wanted = self.goals.get(name, ("", 0.0))
            met = (
                ""
                if not operator
                else "met"
                if (value >= wanted if operator == ">=" else value <= wanted)
                else "MISSED"
            )
            table.add_row(name, f"{value:.4g}", f"{operator} {wanted:g}" if operator else "", met)
        console.print(table)


def machine() -> dict[str, object]:
    """The facts a figure is worthless without."""
    model = "unknown"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = (line.partition(":") for line in cpuinfo.read_text().splitlines())
        model = next((value.strip() for name, _, value in lines if name.strip() == "model name"), model)
    return {"cpu": model, "cores": os.cpu_count(), "system": platform.platform()}
