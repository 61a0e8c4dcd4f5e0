"""Folders that must be refused, each with what is wrong and what is allowed; and forms whose settings must be read, not assumed."""

import json
import os
import pickle
import tempfile
from pathlib import Path

import pytest
import safetensors.torch
import torch

from cloud_core.importer import hub_files, weights
from cloud_core.importer.architectures.choose import open_source, supported
from cloud_core.importer.source import Source, obtain
from cloud_core.importer.source_folder import LEFT_BY_HUBS, check_source_folder
from shared.protocol.errors import Refusal, Refused
from tests.importing import folders
from tests.importing import transformers_folders as hf
from tests.importing.bundles import request_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The `device` argument is deprecated:FutureWarning"),
]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "source"


def opened(folder: Path):
    work = Path(tempfile.mkdtemp(dir=folder.parent))
    return open_source(request_for(folder), Source(path=folder), work)


def refusal(folder: Path) -> Refused:
    with pytest.raises(Refused) as raised:
        opened(folder)
    return raised.value


def changed(path: Path, **fields: object) -> None:
    value = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**value, **fields}), encoding="utf-8")


class Sentinel:
    """A pickle that leaves a file behind where it is executed."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self):
        return os.system, (f"touch {self._path}",)


# Weights


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


# Configurations


@pytest.mark.parametrize(
    ("file", "fields", "where"),
    [
        ("configuration.json", {"plugins": ["adaseq"]}, "configuration.json.plugins"),
        ("configuration.json", {"allow_remote": True}, "configuration.json.allow_remote"),
        ("config.json", {"auto_map": {"AutoModel": "modeling.Mine"}}, "config.json.auto_map"),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["t.Mine", None]}}, "tokenizer_config.json.auto_map"),
        (
            "configuration.json",
            {"model": {"backbone": {"trust_remote_code": True}}},
            "configuration.json.model.backbone",
        ),
    ],
)
def test_a_configuration_that_names_code_is_refused(folder, file, fields, where):
    folders.sentiment(folder, tokenizer={"do_lower_case": True})
    changed(folder / file, **fields)
    error = refusal(folder)
    assert error.kind is Refusal.UNSUPPORTED
    assert error.field.startswith(where)


def test_words_of_a_vocabulary_name_no_code(folder):
    folders.sentiment(folder, labels=("plugins", "auto_map"))
    assert opened(folder).labels == ("plugins", "auto_map")


@pytest.mark.parametrize("file", ["configuration.json", "config.json", "label_mapping.json", "tokenizer_config.json"])
@pytest.mark.parametrize("data", [b"{", b"\xff\xfe", b"[1]", b"[" * 100_000, b"NaN", b""])
def test_broken_json_is_refused_by_name(folder, file, data):
    folders.sentiment(folder, tokenizer={"do_lower_case": True})
    (folder / file).write_bytes(data)
    error = refusal(folder)
    assert error.field == file or (data == b"[1]" and error.kind in (Refusal.UNPROCESSABLE, Refusal.UNSUPPORTED))


def test_a_huge_configuration_is_refused(folder):
    folders.sentiment(folder)
    (folder / "config.json").write_bytes(b" " * (hub_files.MAX_JSON + 1))
    assert (refusal(folder).kind, refusal_kind(folder)) == (Refusal.TOO_LARGE, "config.json")


def refusal_kind(folder: Path) -> str | None:
    with pytest.raises(Refused) as raised:
        hub_files.open_folder(folder)
    return raised.value.field


@pytest.mark.parametrize("make", [folders.sentiment, folders.raner, folders.gte])
def test_a_folder_without_vocabulary_is_refused(folder, make):
    make(folder)
    (folder / "vocab.txt").unlink()
    assert refusal(folder).field == "vocab.txt"


def test_a_vocabulary_larger_than_the_model_is_refused(folder):
    folders.sentiment(folder)
    with (folder / "vocab.txt").open("a", encoding="utf-8") as file:
        file.write("\n".join(f"word{i}" for i in range(10)))
    assert "more tokens" in refusal(folder).message


@pytest.mark.parametrize(
    "fields",
    [
        {"task": "image-classification"},
        {"model": {"type": "lstm-crf"}},
        {"task": "sentence-similarity"},
        {"pipeline": {}},
    ],
)
def test_an_unknown_kind_is_refused_with_the_list_of_known_ones(folder, fields):
    folders.sentiment(folder)
    changed(folder / "configuration.json", **fields)
    error = refusal(folder)
    assert error.kind is Refusal.UNSUPPORTED
    assert error.allowed.split("; ") == list(supported())


def test_an_empty_folder_is_refused_with_the_list(folder):
    folder.mkdir()
    assert refusal(folder).allowed.split("; ") == list(supported())


@pytest.mark.parametrize(
    ("make", "file", "fields"),
    [
        (hf.classification, "config.json", {"problem_type": "multi_label_classification"}),
        (hf.classification, "config.json", {"architectures": ["BertForQuestionAnswering"]}),
        (hf.classification, "config.json", {"model_type": "deberta-v2"}),
        (hf.classification, "tokenizer_config.json", {"padding_side": "left"}),
        (hf.sentences, "1_Pooling/config.json", {"pooling_mode_max_tokens": True}),
        (hf.sentences, "sentence_bert_config.json", {"do_lower_case": True}),
        (folders.gte, "configuration.json", {"preprocessor": {"type": "sentence-embedding", "boq": "query: "}}),
    ],
)
def test_what_the_engine_cannot_do_is_refused_by_name(folder, make, file, fields):
    make(folder)
    changed(folder / file, **fields)
    assert refusal(folder).kind is Refusal.UNSUPPORTED


def test_labels_that_do_not_fit_are_refused(folder):
    folders.sentiment(folder)
    (folder / "label_mapping.json").write_text(json.dumps({"a": 0, "b": 2}))
    assert refusal(folder).field == "labels"


# Settings are read


def test_the_length_is_the_configurations(folder):
    folders.sentiment(folder, max_length=96)
    assert opened(folder).processing.max_length == 96


def test_defaults_are_those_of_each_pipeline(folder, tmp_path):
    assert opened(folders.sentiment(folder)).processing.max_length == 512
    assert opened(folders.gte(tmp_path / "b" / "gte")).processing.max_length == 128


def test_case_and_composition_follow_the_tokenizer(folder, tmp_path):
    cased = opened(folders.sentiment(folder, cased=True)).processing
    assert (cased.lowercase, cased.nfc) == (False, True)
    # The tokenizer written in Rust composes nothing, and where places are told nothing may be moved.
    fast = folders.sentiment(tmp_path / "b" / "fast", cased=True, tokenizer={"use_fast": True})
    assert not opened(fast).processing.nfc
    assert not opened(folders.raner(tmp_path / "c" / "ner", cased=True)).processing.nfc


def test_labels_come_in_the_order_of_the_outputs(folder):
    folders.sentiment(folder, labels=("c", "a", "b"))
    (folder / "label_mapping.json").write_text(json.dumps({"b": 2, "c": 0, "a": 1}))
    assert opened(folder).labels == ("c", "a", "b")


# Files


def test_links_are_refused(folder, tmp_path):
    folders.sentiment(folder)
    (folder / "config.json").rename(tmp_path / "config.json")
    (folder / "config.json").symlink_to(tmp_path / "config.json")
    with pytest.raises(Refused, match="a link") as raised:
        obtain(request_for(folder), tmp_path, lambda *_: None)
    assert raised.value.field == "config.json"
    # A link that appears after it was looked at is not followed either.
    assert refusal(folder).field == "config.json"


@pytest.mark.parametrize("name", [".hidden", "inner/.hidden", ".env"])
def test_hidden_files_are_refused(folder, name):
    folders.sentiment(folder)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("x")
    with pytest.raises(Refused, match="hidden") as raised:
        check_source_folder(folder)
    assert raised.value.field == name


def test_what_hubs_leave_is_let_be(folder):
    folders.sentiment(folder)
    for name in LEFT_BY_HUBS - {".git", ".cache"}:
        (folder / name).write_text("x")
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("x")
    check_source_folder(folder)


def test_pipes_are_refused(folder):
    folders.sentiment(folder)
    os.mkfifo(folder / "pipe")
    with pytest.raises(Refused, match="not a regular file"):
        check_source_folder(folder)


@pytest.mark.parametrize("path", ["nowhere", "file.bin"])
def test_a_path_that_is_no_source_is_refused(tmp_path, path):
    (tmp_path / "file.bin").write_bytes(b"x")
    with pytest.raises(Refused) as raised:
        obtain(request_for(tmp_path / path), tmp_path, lambda *_: None)
    assert "modelscope:" in raised.value.allowed
