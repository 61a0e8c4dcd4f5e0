"""Folders that must be refused, each with what is wrong and what is allowed; and forms whose settings must be read, not assumed."""

import json
import os
from pathlib import Path

import pytest

from cloud_core.importer import hub_files
from cloud_core.importer.architectures.choose import supported
from cloud_core.importer.source import obtain
from cloud_core.importer.source_folder import LEFT_BY_HUBS, check_source_folder
from shared.protocol.errors import Refusal, Refused
from tests.importing import folders
from tests.importing import transformers_folders as hf
from tests.importing.bundles import request_for
from tests.importing.refusals import changed, opened, refusal

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The `device` argument is deprecated:FutureWarning"),
]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "source"


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
        (hf.classification, "config.json", {"quantization_config": {"quant_method": "gptq", "bits": 4}}),
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
