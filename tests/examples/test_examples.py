"""The examples run as their first lines say."""

import subprocess
import sys

from tests.architecture.laws import ROOT

DEV = ROOT / "examples" / "shipped_models" / "dev"


def run(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_serving_without_a_cloud():
    said = run("examples/01_serve_without_a_cloud.py")
    good, bad = said.splitlines()
    assert "'label': '正面'" in good
    assert "'label': '负面'" in bad


def test_scoring_runs_on_the_development_sets_and_both_variants_agree():
    """Never on the held-out sets: those are scored by hand, once per release."""
    said = run(
        "-m", "examples.score_demo_models", "--sentiment", str(DEV / "sentiment.jsonl"), "--ner", str(DEV / "ner.jsonl")
    )
    lines = said.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["cpu-int8", "cpu-fp32"]
    accuracies = [float(line.split("accuracy ")[1].split(";")[0]) for line in lines]
    f1s = [float(line.split("F1 ")[1].split(" ")[0]) for line in lines]
    assert abs(accuracies[0] - accuracies[1]) <= 0.02
    assert abs(f1s[0] - f1s[1]) <= 0.02
    assert min(accuracies) >= 0.8, "development scores fell far below what the card says"
    assert min(f1s) >= 0.8
