"""The corpus given to `edge-agent serve`, as bundles and as plain files: it says why not, and ends in order."""

import os
import subprocess
import sys

import pytest

from tests.edge_agent.test_agent import running
from tests.hostile import programs
from tests.hostile.corpus import CORPUS, FOLDERS, MANIFESTS, bundle, renamed

SLOW = pytest.mark.slow
QUICK = {"outside-in-a-subgraph", "functions-3000-deep", "bomb-at-run", "pickle", "array-of-objects", "answers-nan"}
EVERY = [pytest.param(one, id=one.name, marks=[] if one.name in QUICK else SLOW) for one in CORPUS]
PLAIN = {
    "functions": (lambda: programs.functions(3000), "domain that may not be used"),
    "beside": (lambda: programs.outside("secret.bin"), "data outside the file"),
    "loop": (programs.endless_loop, "takes longer than 3 s"),
    "bomb": (programs.filled_at_run, "B of memory"),
    "noise": (programs.noise, "not an ONNX program"),
}


def served(path, folder, *, seconds="60"):
    """Exit status and words of an agent that is to serve `path`."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("EDGE_AGENT_")}
    done = subprocess.run(
        [sys.executable, "-m", "edge_agent", "serve", str(path), "--port", "0"],
        check=False,
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=120,
        env={**clean, "EDGE_AGENT_TRIAL_SECONDS": seconds, "EDGE_AGENT_TRIAL_MEMORY_BYTES": str(2 << 30)},
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stderr


@pytest.mark.parametrize("hostile", EVERY)
def test_a_hostile_bundle_is_not_served(tmp_path, hostile):
    folder = hostile.make(tmp_path / "sentinel").write(tmp_path / "bundle")
    code, said = served(folder, tmp_path, seconds="3" if hostile.name == "loop-endless" else "60")
    assert code == 1
    assert said.startswith("edge-agent: "), said
    assert not (tmp_path / "sentinel").exists()


@pytest.mark.parametrize("name", [pytest.param(name, marks=SLOW if name == "noise" else []) for name in PLAIN])
def test_a_hostile_program_is_not_served(tmp_path, name):
    make, words = PLAIN[name]
    (tmp_path / "secret.bin").write_bytes(bytes(16))
    (tmp_path / "plain.onnx").write_bytes(make())
    code, said = served(tmp_path / "plain.onnx", tmp_path, seconds="3" if name == "loop" else "60")
    assert (code, words in said) == (1, True), said


@pytest.mark.parametrize("what", [pytest.param(name, marks=[] if name == "hard-link" else SLOW) for name in FOLDERS])
def test_a_folder_that_is_more_than_its_bundle_is_not_served(tmp_path, what):
    folder = bundle("good", programs.good()).write(tmp_path / "bundle")
    FOLDERS[what](folder)
    code, said = served(folder, tmp_path)
    assert code == 1
    assert said.startswith("edge-agent: "), said


@SLOW
@pytest.mark.parametrize("name", MANIFESTS)
def test_names_that_leave_the_folder(tmp_path, name):
    code, said = served(renamed(MANIFESTS[name]["path"]).write(tmp_path / "bundle"), tmp_path)
    assert (code, "files[0].path" in said) == (1, True), said


def test_the_same_folder_untouched_is_served(tmp_path):
    folder = bundle("good", programs.good()).write(tmp_path / "bundle")
    with running("serve", str(folder), "--port", "0", folder=tmp_path) as agent:
        body = {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1.0, 2.0, 3.0]}]}
        status, _, answer = agent.ask("POST", "/v2/models/good/infer", body)
        assert (status, answer["outputs"][0]["data"]) == (200, [2.0, 4.0, 6.0])
        _, _, health = agent.ask("GET", "/health")
        assert health["isolation"] in ("namespace", "seccomp", "none")
        assert agent.end() == 0
