"""What every peer is told on its command line, and the session that all but one of them run."""

import argparse
from typing import Any, NamedTuple

import numpy as np

INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class Arguments(NamedTuple):
    """`rows`: of a batch at most; `wait`: seconds a batch may wait to be filled; `threads`: of each of `workers` sessions."""

    program: str
    shape: str
    port: int
    workers: int
    threads: int
    rows: int
    wait: float


def arguments() -> Arguments:
    """As given."""
    parser = argparse.ArgumentParser()
    for name, kind in Arguments.__annotations__.items():
        parser.add_argument(f"--{name}", type=kind, required=True)
    return Arguments(**vars(parser.parse_args()))


def opened(program: str, threads: int) -> Any:
    """An ONNX Runtime session as it comes, but for the threads: spinning, all optimizations."""
    import onnxruntime  # noqa: PLC0415 - not every peer has it

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(program, options, providers=["CPUExecutionProvider"])


def ran(session: Any, arrays: dict[str, Any]) -> Any:
    """Logits [rows, labels] for the three inputs, [rows, tokens] each."""
    return session.run(["logits"], {name: np.asarray(arrays[name], np.int64) for name in INPUTS})[0]
