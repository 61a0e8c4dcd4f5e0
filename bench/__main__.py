"""`python -m bench [NAME ...]`: run the benchmarks named, or all, one after the other."""

import importlib
import sys

from rich.console import Console

from bench.result import Result

BENCHMARKS = ("overhead",)


def main(names: list[str]) -> int:
    """Exit status: 0 when all ran, met or not; 2 for a name that is none."""
    console = Console()
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
