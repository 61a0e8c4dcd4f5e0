"""Pruned attention heads: the fewest that matter go, the program shrinks, and the result is held to the unpruned source."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from cloud_core.importer import golden as golden_sets
from cloud_core.importer.answers import answer_with
from cloud_core.importer.architectures.choose import open_source
from cloud_core.importer.export import export
from cloud_core.importer.forms import FILES, FP32, Making
from cloud_core.importer.opened import Opened
from cloud_core.importer.prune_heads import _attentions, prune_heads
from cloud_core.importer.source import Source
from cloud_core.importer.variants import admit
from shared.protocol.errors import Refused
from shared.serving.tasks.choose import task_for
from shared.serving.versions.golden import item_of
from tests.importing import folders
from tests.importing.bundles import Bundle, bundle_of, request_for
from tests.importing.decoders import decoder_folder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The `device` argument is deprecated:FutureWarning"),
]
TEXTS = ["这家面馆的汤头很鲜", "不好吃", "The room was clean", "明天 10:30 开会", "好"]


def made(work: Path, make=lambda folder: folders.gte(folder, normalize=True)) -> Bundle:
    return bundle_of(make, work)


def heads(opened: Opened) -> list[int]:
    assert opened.traced is not None
    return [each.self.num_attention_heads for each in _attentions(opened.traced.module)]


def vector(module: torch.nn.Module, example: tuple[torch.Tensor, ...]) -> np.ndarray:
    with torch.no_grad():
        return module(*example).numpy()


def pruned(bundle: Bundle, ratio: float) -> Opened:
    return prune_heads(bundle.opened, ratio, task_for(bundle.manifest, bundle.folder), TEXTS)


def test_a_share_of_all_heads_goes_for_good(tmp_path: Path) -> None:
    bundle = made(tmp_path)
    total = sum(heads(bundle.opened))
    before = onnx.load(bundle.folder / FILES[FP32]).ByteSize()
    opened = pruned(bundle, 0.5)
    assert sum(heads(opened)) == total // 2
    assert min(heads(opened)) >= 1
    assert opened.about["pruned_heads"].startswith(f"{total // 2} of {total}")
    assert export(opened, bundle.folder / FILES[FP32]) < 1e-4, "the exported program is that of the pruned module"
    assert onnx.load(bundle.folder / FILES[FP32]).ByteSize() < before


def test_the_last_head_of_a_layer_stays(tmp_path: Path) -> None:
    assert set(heads(pruned(made(tmp_path), 0.99))) == {1}


def test_what_matters_least_goes_first(tmp_path: Path) -> None:
    """A head whose output goes nowhere is the first to go, and nothing changes."""
    bundle = made(tmp_path)
    traced = bundle.opened.traced
    assert traced is not None
    block = _attentions(traced.module)[0]
    with torch.no_grad():
        block.output.dense.weight[:, 16:32] = 0.0
    before = vector(traced.module, traced.example)
    total = sum(heads(bundle.opened))
    first, *others = heads(pruned(bundle, 1 / total))
    assert (first, set(others)) == (3, {4})
    assert np.abs(vector(traced.module, traced.example) - before).max() < 1e-5


def test_the_pruned_model_is_judged_against_the_unpruned_one(tmp_path: Path) -> None:
    bundle = made(tmp_path)
    golden = golden_sets.golden_set(bundle.opened, None, lambda *_: None)
    items = [item_of(item, bundle.manifest) for item in golden.items]
    unpruned = answer_with(bundle.manifest, bundle.folder, FP32, items)
    opened = pruned(bundle, 0.5)
    export(opened, bundle.folder / FILES[FP32])
    making = Making(opened, bundle.manifest, bundle.folder, items)
    with pytest.raises(Refused, match="the unpruned source") as caught:
        admit(making, golden, (FP32,), accept={}, say=lambda *_: None, source=unpruned)
    figure = float(str(caught.value.allowed).rpartition("=")[2])
    assert figure < 0.99
    # Random weights need every head: nothing of the golden set is left that a device could replay.
    with pytest.raises(Refused) as refused:
        admit(making, golden, (FP32,), accept={FP32: round(figure, 2)}, say=lambda *_: None, source=unpruned)
    assert refused.value.code in ("drift", "golden-differs")
    (fp32,) = admit(making, golden, (FP32,), accept={FP32: figure}, say=lambda *_: None, source=unpruned).variants
    assert fp32.accepted_drift is not None
    assert fp32.agreement["source_least_cosine"] == pytest.approx(figure, abs=1e-4)


@pytest.mark.parametrize("ratio", [0.0, 0.01, 1.0, -0.5, 1.5, float("nan")])
def test_a_ratio_that_removes_nothing_or_all_is_refused(tmp_path: Path, ratio: float) -> None:
    with pytest.raises(Refused) as caught:
        pruned(made(tmp_path), ratio)
    assert caught.value.field == "prune_heads"


def test_other_architectures_are_refused_by_name(tmp_path: Path) -> None:
    source = decoder_folder(tmp_path / "gpt2", "gpt2")
    opened = open_source(request_for(source), Source(path=source), tmp_path)
    with pytest.raises(Refused) as caught:
        prune_heads(opened, 0.5, None, TEXTS)  # type: ignore[arg-type]
    assert "gpt2" in str(caught.value.value).lower()
    with pytest.raises(Refused):
        prune_heads(replace(opened, traced=None, graph=b""), 0.5, None, TEXTS)  # type: ignore[arg-type]
