"""`python -m bench [--quick] [NAME ...]`: run the benchmarks named, or all, one after the other.

`--quick` (or BENCH_QUICK=1) runs tiny rounds, to see that everything works; its results go to `bench/.cache/quick`.
BENCH_EDGE_ARGS holds further flags of the edge agents that are measured, such as `--lanes 2 --threads 1`.
"""

import importlib
import os
import sys

from rich.console import Console

from bench.result import Result

BENCHMARKS = (
    "overhead",
    "throughput",
    "peers",
    "overload",
    "mixed_lengths",
    "reference_scenario",
    "capacity",
    "routing_sim",
    "routing_live",
    "telemetry_idle",
    "telemetry_ingest",
    "transfer",
    "mqtt_transport",
    "gpu",
)


def main(arguments: list[str]) -> int:
    """Exit status: 0 when all ran, met or not; 2 for a name that is none."""
    console = Console()
    names = [each for each in arguments if each != "--quick"]
    if len(names) < len(arguments):
        os.environ["BENCH_QUICK"] = "1"
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        console.print(f"no benchmark {', '.join(unknown)}; there are: {', '.join(BENCHMARKS)}")
        return 2
    for name in names or BENCHMARKS:
        result: Result = importlib.import_module(f"bench.{name}").run()
        result.write()
        result.show(console)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
