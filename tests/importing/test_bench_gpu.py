"""The GPU benchmark where there is none: what it compares computes the same on the processor, and its result says that it is absent."""

import numpy as np
import pytest
import torch

from bench import gpu
from bench.encoder_weights import SHAPES, logits, weights
from shared.io.processor import COMPUTE_BF16, processor

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not COMPUTE_BF16 & set(processor().features), reason="this processor does not compute in bf16"),
]


def test_all_contestants_compute_the_encoder(tmp_path):
    shape = SHAPES["small"]
    ids = np.random.default_rng(0).integers(5, 20_000, (3, 9))
    wanted = logits(shape, weights(shape), ids, np.ones_like(ids))
    for name, run in gpu.contestants("cpu", "small", tmp_path).items():
        found = run(ids)
        assert (found.shape, found.dtype) == (wanted.shape, np.float32), name
        assert float(np.abs(found - wanted).max()) < gpu.PARITY, name


def test_a_comparison_has_a_figure_for_everyone_and_a_goal(monkeypatch):
    monkeypatch.setenv("BENCH_QUICK", "1")
    result = gpu.compare("cpu", "small", rows=(1, 2), tokens=8)
    assert result.metrics.keys() >= {f"{name}, sequences/s" for name in (gpu.SESSION, gpu.CAST, gpu.AUTOMATIC)}
    assert all(value > 0 for value in result.metrics.values())
    assert result.goals == {"session over the better loop": (">=", gpu.GOAL)}


def test_without_a_gpu_the_result_says_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = gpu.run()
    assert (result.metrics, result.missed()) == ({}, [])
    assert result.notes[0].startswith("no GPU here: torch")
