"""A folder of our own training code: opened, asked, and refused by the file that is wrong."""

import json
import shutil

import numpy as np
import pytest

from cloud_core.importer.project_source import open_project
from cloud_core.models.shipped import shipped_models
from shared.bundle.manifest import TaskKind
from shared.protocol.errors import Corrupt, Refused

DESCRIPTION = {
    "name": "mood",
    "version": "1.0.0",
    "task": "text-classification",
    "labels": ["负面", "正面"],
    "max_length": 128,
}


@pytest.fixture
def folder(tmp_path):
    """The smallest text model at hand as its training wrote it."""
    shipped = next(path for path in shipped_models() if path.name == "sentiment-zh")
    made = tmp_path / "source"
    made.mkdir()
    for name in ("model.fp32.onnx", "tokenizer.json"):
        shutil.copyfile(shipped / name, made / name)
    write(made, DESCRIPTION)
    return made


def write(folder, description):
    (folder / "model.json").write_text(json.dumps(description))


def test_it_is_its_own_reference(folder):
    (folder / "notes.md").write_text("**Limits.** Many.")
    (folder / "golden.json").write_text('{"text": "味道很好"}\n"太差了"\n{"text": "好", "expect": {"label": "正面"}}\n')
    opened = open_project(folder)
    assert opened.task is TaskKind.TEXT_CLASSIFICATION
    assert opened.graph == (folder / "model.fp32.onnx").read_bytes()
    assert set(opened.files) == {"tokenizer.json"}
    assert opened.notes == "**Limits.** Many."
    assert not opened.plain_int8
    good, bad, given = opened.golden
    assert (good.expect["label"], bad.expect["label"]) == ("正面", "负面")
    assert given.expect == {"label": "正面"}, "what the author says stays as it is"
    assert opened.reference is not None
    assert opened.reference(["味道很好"]) == [good.expect]


def test_the_form_of_int8_it_was_scored_in_is_kept(folder):
    write(folder, DESCRIPTION | {"plain_int8": True})
    assert open_project(folder).plain_int8


@pytest.mark.parametrize("name", ["model.fp32.onnx", "tokenizer.json"])
def test_what_is_missing_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(Refused) as caught:
        open_project(folder)
    assert caught.value.field == name


@pytest.mark.parametrize("name", ["model.fp32.onnx", "tokenizer.json", "notes.md"])
def test_links_are_not_followed(folder, tmp_path, name):
    (tmp_path / "secret").write_text("secret")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(tmp_path / "secret")
    with pytest.raises(Refused) as caught:
        open_project(folder)
    assert caught.value.field == name


def test_a_pickle_in_place_of_arrays_is_refused(folder):
    np.savez(folder / "crf.npz", x=np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(Refused) as caught:
        open_project(folder)
    assert "crf.npz" in str(caught.value.field)


def test_a_program_that_is_none_is_refused(folder):
    (folder / "model.fp32.onnx").write_bytes(b"\x00" * 100)
    with pytest.raises(Refused):
        open_project(folder)


def test_a_description_that_is_not_the_programs_is_found_before_it_is_asked(folder):
    write(folder, DESCRIPTION | {"labels": ["a", "b", "c"]})
    with pytest.raises(Corrupt):
        open_project(folder)
