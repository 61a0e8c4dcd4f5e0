"""NVIDIA Triton through nvidia-pytriton: Triton's own HTTP server and dynamic batcher before a Python callable; protocol JSON."""

import signal
from collections.abc import Callable
from typing import Any

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from bench.peer_servers.arguments import INPUTS, arguments, opened, ran


def instance(program: str, threads: int) -> Callable[..., Any]:
    """One instance of the model with a session of its own."""
    session = opened(program, threads)

    @batch
    def infer(**arrays: Any) -> dict[str, Any]:
        return {"logits": ran(session, arrays)}

    return infer


def ended(*_: object) -> None:
    """Told to end: leave the block below in order, which ends Triton and removes its 20 MB workspace."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    told = arguments()
    signal.signal(signal.SIGTERM, ended)
    config = TritonConfig(
        http_address="127.0.0.1",
        http_port=told.port,
        grpc_address="127.0.0.1",
        grpc_port=told.port + 1,
        allow_metrics=False,
        log_verbose=0,
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name="encoder",
            infer_func=[instance(told.program, told.threads) for _ in range(told.workers)],
            inputs=[Tensor(name=name, dtype=np.int64, shape=(-1,)) for name in INPUTS],
            outputs=[Tensor(name="logits", dtype=np.float32, shape=(2,))],
            config=ModelConfig(
                max_batch_size=told.rows,
                batcher=DynamicBatcher(max_queue_delay_microseconds=round(told.wait * 1e6)),
            ),
        )
        triton.serve()
