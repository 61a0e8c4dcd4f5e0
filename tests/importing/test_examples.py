"""The import examples run as their first lines say: a cloud of their own, an import, a card."""

import subprocess
import sys

import pytest

from tests.architecture.laws import ROOT

pytestmark = pytest.mark.slow

EXAMPLES = {
    "02_import_a_modelscope_folder": ("my-classifier@1.0.0", "cpu-int8"),
    "03_import_a_hugging_face_folder": ("my-embeddings@1.0.0", "cpu-int8"),
    "04_import_an_onnx_file": ("flowers@1.0.0", "cpu-fp32"),
}


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.timeout(400)
def test_an_import_example_ends_with_a_card(name):
    done = subprocess.run(
        [sys.executable, "-m", f"examples.{name}"], cwd=ROOT, capture_output=True, text=True, timeout=380, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for part in EXAMPLES[name]:
        assert part in done.stdout.partition("models show")[2]


def test_the_hub_example_says_what_is_wrong_where_no_hub_is():
    done = subprocess.run(
        [sys.executable, "-m", "examples.05_import_from_modelscope", "nobody/nothing"],
        cwd=ROOT, capture_output=True, text=True, timeout=170, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "nobody/nothing" in done.stderr
