"""Models of three times a memory limit, under random access by many at once, in a real control group."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from shared.io.memory import memory_limit
from tests.shared.serving.bundles import save
from tests.shared.serving.control_group import NoGroup, limited

LIMIT = 256 << 20
WIDTH = 2560
"""25 MiB of weights."""
COUNT = 30
"""Three times the limit, together."""


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """`COUNT` programs, y = x W, every weight of the i-th i + 1."""
    folder = tmp_path_factory.mktemp("models")
    for i in range(COUNT):
        weights = np.full(WIDTH * WIDTH, i + 1, np.float32).tobytes()
        graph = helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", WIDTH])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", WIDTH])],
            [onnx.TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[WIDTH, WIDTH], raw_data=weights)],
        )
        save(graph, folder / f"m{i}.onnx")
    assert sum(path.stat().st_size for path in folder.iterdir()) >= 2.9 * LIMIT
    return folder


def run(models: Path, procs: str, how: str) -> subprocess.CompletedProcess:
    command = [
        sys.executable,
        "-m",
        "tests.shared.serving.limited_engine",
        procs,
        str(models),
        str(COUNT),
        str(WIDTH),
        how,
    ]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=170)


@pytest.mark.slow
def test_models_of_three_times_the_limit_are_all_answered_and_nobody_is_killed(models):
    try:
        with limited(LIMIT) as group:
            ended = run(models, str(group.procs), "bounded")
            kills, most = group.oom_kills, group.most
    except NoGroup as error:
        pytest.skip(f"no control group can be made here: {error}")
    assert ended.returncode == 0, ended.stderr[-2000:]
    told = json.loads(ended.stdout)
    print(told, f"most of the group with its page cache {most}")
    assert told["limit"] == LIMIT
    assert kills == 0
    assert told["wrong"] == []
    assert told["answers"] == 240
    assert told["evictions"] > COUNT
    assert told["most_resident"] < LIMIT
    # What was put away is really free: the process is what it was, and a little for what Python keeps.
    assert told["left"] < told["base"] + (32 << 20)


@pytest.mark.slow
def test_without_a_budget_the_limit_does_kill(models):
    """So that the test before could have failed."""
    try:
        with limited(LIMIT) as group:
            ended = run(models, str(group.procs), "unbounded")
            kills = group.oom_kills
    except NoGroup as error:
        pytest.skip(f"no control group can be made here: {error}")
    assert ended.returncode == -9
    assert kills >= 1


def test_a_limit_is_seen_from_inside():
    assert 0 < memory_limit() < 1 << 50
