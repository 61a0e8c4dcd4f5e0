"""Weights that must be refused by name, and never run: pickles, broken files, and folders a library would fill with random numbers."""

import json
import os
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch

from cloud_core.importer import weights
from shared.protocol.errors import Refusal, Refused
from tests.importing import folders
from tests.importing import transformers_folders as hf
from tests.importing.refusals import opened, refusal

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The `device` argument is deprecated:FutureWarning"),
]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "source"


class Sentinel:
    """A pickle that leaves a file behind where it is executed."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self):
        return os.system, (f"touch {self._path}",)


def test_a_pickle_that_would_run_something_is_refused_and_not_run(folder, tmp_path):
    folders.sentiment(folder)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Sentinel(tmp_path / "ran")))
    error = refusal(folder)
    assert (error.field, error.kind) == ("pytorch_model.bin", Refusal.UNPROCESSABLE)
    torch.save({"weight": Sentinel(tmp_path / "ran")}, folder / "pytorch_model.bin")
    assert refusal(folder).field == "pytorch_model.bin"
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "value",
    [{"weight": "text"}, {"state_dict": {"a": torch.ones(1)}}, [torch.ones(1)], {}, {1: torch.ones(1)}, torch.ones(1)],
)
def test_what_is_no_state_dict_is_refused(folder, value):
    folders.sentiment(folder)
    torch.save(value, folder / "pytorch_model.bin")
    assert refusal(folder).field == "pytorch_model.bin"


@pytest.mark.parametrize("data", [b"", b"not a pickle", b"PK\x03\x04" + b"\0" * 100, b"\x80\x04."])
def test_bytes_that_are_no_weights_are_refused(folder, data):
    folders.sentiment(folder)
    (folder / "pytorch_model.bin").write_bytes(data)
    assert refusal(folder).field == "pytorch_model.bin"


def test_broken_safetensors_are_refused(folder):
    folders.gte(folder, safe=True)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert refusal(folder).field == "model.safetensors"


def test_safetensors_are_read_where_both_are_there(folder):
    folders.sentiment(folder)
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    safetensors.torch.save_file(state, folder / "model.safetensors")
    (folder / "pytorch_model.bin").write_bytes(b"never looked at")
    found = opened(folder)
    assert found.traced.module.model.state_dict()["head.classifier.bias"].equal(state["head.classifier.bias"])


def test_a_folder_without_weights_is_refused(folder):
    folders.sentiment(folder)
    (folder / "pytorch_model.bin").unlink()
    assert "no weights" in refusal(folder).message


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(folder, value):
    folders.sentiment(folder)
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    state["encoder.pooler.dense.weight"][3, 4] = value
    torch.save(state, folder / "pytorch_model.bin")
    assert refusal(folder).field == "encoder.pooler.dense.weight"


@pytest.mark.parametrize(
    ("make", "lost"),
    [
        (folders.sentiment, "head.classifier.weight"),
        (folders.sentiment, "encoder.encoder.layer.1.attention.self.query.bias"),
        (folders.classification, "classifier.bias"),
        (folders.classification, "bert.pooler.dense.weight"),
        (folders.raner, "head.crf.transitions"),
        (folders.raner, "encoder.embeddings.LayerNorm.weight"),
        (folders.softmax_ner, "head.classifier.weight"),
        (folders.gte, "embeddings.word_embeddings.weight"),
        (hf.classification, "classifier.weight"),
        (hf.sentences, "encoder.layer.0.output.dense.bias"),
    ],
)
def test_weights_that_would_be_random_are_refused_by_name(folder, make, lost):
    make(folder)
    renamed(folder, lost, None)
    error = refusal(folder)
    assert lost.removeprefix("bert.") in error.message


def test_weights_under_a_name_the_library_does_not_know_are_refused(folder):
    """ModelScope only warns, and answers by weights it has drawn at random."""
    folders.classification(folder)
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    renames = {"bert.": "encoder.", "classifier.": "head.classifier."}
    other = {
        name.replace(old, new, 1): value
        for name, value in state.items()
        for old, new in renames.items()
        if name.startswith(old)
    }
    assert len(other) == len(state)
    torch.save(other, folder / "pytorch_model.bin")
    assert "random" in refusal(folder).message


def test_weights_of_another_shape_are_refused(folder):
    """ModelScope ignores what does not fit, and draws it at random."""
    folders.sentiment(folder)
    renamed(folder, "head.classifier.weight", torch.ones(5, 64))
    assert refusal(folder).code in ("unprocessable", "unsupported")


def test_tied_and_unused_weights_are_let_be(folder):
    folders.raner(folder)
    renamed(folder, "encoder.embeddings.position_ids", torch.arange(512)[None])
    assert opened(folder).about["weights_not_used"] == "1"


def renamed(folder: Path, name: str, value: torch.Tensor | None) -> None:
    """Put a tensor in the place of `name`, or nothing."""
    safe = folder / "model.safetensors"
    path = safe if safe.exists() else folder / "pytorch_model.bin"
    state = safetensors.torch.load_file(safe) if path == safe else torch.load(path, weights_only=True)
    state.pop(name, None)
    if value is not None:
        state[name] = value
    if path == safe:
        safetensors.torch.save_file(state, safe, metadata={"format": "pt"})
    else:
        torch.save(state, path)


def test_shards_are_read_and_must_be_there(folder):
    hf.classification(folder)
    state = safetensors.torch.load_file(folder / "model.safetensors")
    names = sorted(state)
    halves = {"a.safetensors": names[:20], "b.safetensors": names[20:]}
    for file, part in halves.items():
        safetensors.torch.save_file({name: state[name] for name in part}, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {name: file for file, part in halves.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert weights.read_weights(folder).tensors.keys() == state.keys()
    assert opened(folder).labels == folders.SENTIMENTS
    (folder / "b.safetensors").unlink()
    assert refusal_again(folder).value == "b.safetensors"
    index["weight_map"][names[0]] = "../elsewhere.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert refusal_again(folder).value == "../elsewhere.safetensors"


def refusal_again(folder: Path) -> Refused:
    with pytest.raises(Refused) as raised:
        weights.read_weights(folder)
    return raised.value
