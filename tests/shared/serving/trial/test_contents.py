import io
import pickle
import zipfile

import numpy as np
import pytest

from shared.bundle.sniff import kind_of
from shared.protocol.errors import Refused
from shared.serving.trial import contents
from shared.serving.trial.contents import check_arrays, check_json, check_text


def refused(check, path, data):
    path.write_bytes(data)
    with pytest.raises(Refused) as caught:
        check(path)
    assert caught.value.field.startswith(path.name)
    return caught.value.code


def npz(**arrays):
    into = io.BytesIO()
    np.savez_compressed(into, **arrays)
    return into.getvalue()


def member(name, data, **options):
    into = io.BytesIO()
    with zipfile.ZipFile(into, "w", **options) as archive:
        archive.writestr(name, data)
    return into.getvalue()


def header(shape, descr="'<f4'", version=(1, 0)):
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (64 - (10 + len(text) + 1) % 64) + b"\n"
    return b"\x93NUMPY" + bytes(version) + len(text).to_bytes(2, "little") + text


def test_plain_arrays_pass(tmp_path):
    path = tmp_path / "crf.npz"
    path.write_bytes(npz(a=np.zeros((3, 4), np.float32), b=np.arange(5), c=np.array(["x"])))
    check_arrays(path)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (pickle.dumps([1]), "forbidden-content"),
        (b"", "forbidden-content"),
        (npz(a=np.array([{}], dtype=object)), "forbidden-content"),
        (npz(a=np.zeros(2, dtype=[("x", "O")])), "forbidden-content"),
        (member("a.pkl", pickle.dumps([1])), "forbidden-content"),
        (member("../a.npy", b""), "forbidden-content"),
        (member("a.npy", b"nothing"), "forbidden-content"),
        (member("a.npy", header("(1 << 60,)")), "forbidden-content"),
        (member("a.npy", header("(1000000000000,)")), "too-large"),
        (member("a.npy", header("(-4,)")), "too-large"),
        (npz(a=np.zeros(3))[:-30], "forbidden-content"),
    ],
    ids=["pickle", "empty", "objects", "fields", "member", "name", "noise", "code", "promise", "negative", "cut"],
)
def test_what_arrays_may_not_be(tmp_path, data, code):
    assert refused(check_arrays, tmp_path / "a.npz", data) == code


def test_what_unpacks_to_too_much_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(contents, "MAX_ARRAYS", 1 << 20)
    assert refused(check_arrays, tmp_path / "a.npz", npz(a=np.zeros(2 << 20, np.uint8))) == "too-large"


@pytest.mark.parametrize(
    "data", [b"", b"[1", b"nope", b'"text"', b'{"a": NaN}', b"[" * 10_000, b"\xff{}", pickle.dumps({})]
)
def test_what_is_no_json(tmp_path, data):
    assert refused(check_json, tmp_path / "a.json", data) == "forbidden-content"


def test_json_and_text_pass(tmp_path):
    for name, data in (("a.json", b'{"a": [1, {"b": null}]}'), ("b.json", b" [1, 2]")):
        (tmp_path / name).write_bytes(data)
        check_json(tmp_path / name)
    for data in ("# 模型\n".encode(), b"", b"<b>bold</b>", b"#!/bin/sh\n", b"[PAD]\n[UNK]\n", "好\n坏\n".encode()):
        (tmp_path / "vocab.txt").write_bytes(data)
        check_text(tmp_path / "vocab.txt")


@pytest.mark.parametrize("data", [b"a\0b", b"\xff\xfe", pickle.dumps([1]), b"PK\x03\x04rest", b"\x7fELF"])
def test_what_is_no_text(tmp_path, data):
    assert refused(check_text, tmp_path / "a.txt", data) == "forbidden-content"


def test_sizes_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(contents, "MAX_JSON", 100)
    monkeypatch.setattr(contents, "MAX_TEXT", 100)
    assert refused(check_json, tmp_path / "a.json", b'"' + b"a" * 200 + b'"') == "too-large"
    assert refused(check_text, tmp_path / "a.txt", b"a" * 101) == "too-large"


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_are_known_by_their_first_bytes(protocol):
    assert kind_of(pickle.dumps({"a": kind_of}, protocol=protocol)) == "a pickle"
