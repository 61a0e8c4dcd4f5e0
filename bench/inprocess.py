"""A session run by hand, without any server: what a machine can do at most. In a process of its own.

`measure(Cell)` runs `python -m bench.inprocess`: `lanes` threads call one ONNX Runtime session (`threads` each, which share one pool),
each with batches of `rows`, as fast as they can. With one lane and one row the latencies are those of bare `session.run`.
"""

import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime

from bench.client import quantile


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """`inputs`: names with the shape of one row, without the row dimension; ids are ones, floats too."""

    program: str
    inputs: tuple[tuple[str, tuple[int, ...]], ...]
    lanes: int = 1
    threads: int = 1
    rows: int = 1
    spinning: bool = False
    seconds: float = 1.0
    warm: float = 0.2

    @property
    def in_flight(self) -> int:
        """Rows that are under way at once."""
        return self.lanes * self.rows

    @property
    def name(self) -> str:
        """Such as `2 x 1 threads, 8 rows`."""
        spins = ", spinning" if self.spinning else ""
        return f"{self.lanes} x {self.threads} threads{spins}, {self.rows} rows"


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """Rows per second, CPU seconds a row, and the median milliseconds of a run."""

    rate: float
    cpu: float
    p50: float


def measure(cell: Cell) -> Found:
    """Run it in a process of its own.

    Raises:
        RuntimeError: it failed; says how.

    """
    done = subprocess.run(
        [sys.executable, "-m", "bench.inprocess"],
        input=msgspec.msgpack.encode(cell),
        capture_output=True,
        timeout=cell.warm + cell.seconds + 120,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{cell.name} failed: {done.stderr.decode(errors='replace')[-500:]}")
    return msgspec.msgpack.decode(done.stdout, type=Found)


def _run(cell: Cell) -> Found:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cell.threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if cell.spinning else "0")
    session = onnxruntime.InferenceSession(str(Path(cell.program)), options, providers=["CPUExecutionProvider"])
    kinds = {each.name: np.int64 if "int64" in each.type else np.float32 for each in session.get_inputs()}
    feeds = {name: np.ones((cell.rows, *shape), kinds[name]) for name, shape in cell.inputs}
    ended = threading.Event()
    taken: list[list[tuple[float, float]]] = [[] for _ in range(cell.lanes)]

    def lane(own: list[tuple[float, float]]) -> None:
        while not ended.is_set():
            began = time.perf_counter()
            session.run(None, feeds)
            own.append((began, time.perf_counter()))

    threads = [threading.Thread(target=lane, args=(own,)) for own in taken]
    for thread in threads:
        thread.start()
    time.sleep(cell.warm)
    first, cpu = time.perf_counter(), time.process_time()
    time.sleep(cell.seconds)
    last, cpu_after = time.perf_counter(), time.process_time()
    ended.set()
    for thread in threads:
        thread.join()
    runs = [(began, done) for own in taken for began, done in own]
    # What a run has in common with the measured time counts: few long runs fit into it otherwise.
    shares = [max(0.0, min(done, last) - max(began, first)) / (done - began) for began, done in runs]
    inside = sorted((done - began) * 1e3 for began, done in runs if first <= began and done <= last)
    every = sorted((done - began) * 1e3 for began, done in runs)
    rows = sum(shares) * cell.rows
    return Found(rate=rows / (last - first), cpu=(cpu_after - cpu) / rows, p50=quantile(inside or every, 0.5))


if __name__ == "__main__":
    found = _run(msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Cell))
    sys.stdout.buffer.write(msgspec.msgpack.encode(found))
