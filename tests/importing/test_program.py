"""The importer as its caller has it: a process, one JSON line per thing said, a bundle or a reason, whatever the source does."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cloud_core.importer.probes import EVERYDAY
from cloud_core.importer.request import BUNDLE, Failed, Imported, Progressed, Said
from shared.bundle.manifest import MANIFEST_FILE, digest_of, parse_manifest
from shared.serving.versions.golden import read_golden
from tests.importing import folders
from tests.importing.playing_hub import playing_hub
from tests.importing.served import Served

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


class Run:
    """One run: what it said in order, and what it left."""

    def __init__(self, work: Path, request: dict[str, Any], environment: dict[str, str] | None = None) -> None:
        work.mkdir(parents=True, exist_ok=True)
        file = work / "request.json"
        file.write_text(json.dumps({"name": "model", "version": "1.0.0", "said": "a source", **request}))
        done = subprocess.run(
            [sys.executable, "-m", "cloud_core.importer", str(file), str(work)],
            capture_output=True,
            env={**os.environ, **(environment or {})},
            check=False,
        )
        self.said = [msgspec.json.decode(line, type=Said) for line in done.stdout.splitlines()]
        self.status, self.complaints, self.bundle = done.returncode, done.stderr.decode(), work / BUNDLE

    @property
    def ended(self) -> Imported | Failed:
        *steps, last = self.said
        assert all(isinstance(step, Progressed) for step in steps)
        assert not isinstance(last, Progressed)
        assert self.status == (0 if isinstance(last, Imported) else 1)
        return last

    @property
    def failed(self) -> Failed:
        assert isinstance(self.ended, Failed)
        assert not (self.bundle / MANIFEST_FILE).exists()
        return self.ended


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """One import with everything asked for, and its source."""
    work = tmp_path_factory.mktemp("import")
    source = folders.sentiment(work / "source")
    golden = work / "golden.jsonl"
    mine = {"text": "我自己的一句话。"}
    golden.write_text("\n".join(json.dumps(line) for line in ("只在这里出现的一句话。", mine)), encoding="utf-8")
    request = {"path": str(source), "golden": str(golden), "description": "Told by whoever imports."}
    return Run(work / "work", request), source


def test_a_bundle_comes_out_and_its_digest_is_told(imported):
    run, _ = imported
    assert isinstance(run.ended, Imported), run.complaints
    data = (run.bundle / MANIFEST_FILE).read_bytes()
    assert run.ended.digest == digest_of(data)
    manifest = parse_manifest(data)
    assert (manifest.name, manifest.version, manifest.source["said"]) == ("model", "1.0.0", "a source")
    assert [variant.name for variant in manifest.variants] == ["cpu-fp32", "cpu-int8"]
    named = {entry.path for entry in manifest.files} | {MANIFEST_FILE}
    assert {file.name for file in run.bundle.iterdir()} == named


def test_progress_only_goes_forward(imported):
    run, _ = imported
    done = [step.done for step in run.said if isinstance(step, Progressed)]
    assert done == sorted(done)
    assert 0 <= done[0] < done[-1] <= 1
    assert {"open", "export", "compare", "variants", "measure"} <= {
        s.step for s in run.said if isinstance(s, Progressed)
    }


def test_the_golden_set_holds_the_persons_own_texts(imported):
    run, _ = imported
    manifest = parse_manifest((run.bundle / MANIFEST_FILE).read_bytes())
    golden = read_golden(manifest, run.bundle)
    texts = {item.text for item in golden.items}
    assert len(golden.items) >= 32
    assert {"只在这里出现的一句话。", "我自己的一句话。"} <= texts
    assert golden.tolerances["cpu-fp32"] < golden.tolerances["cpu-int8"]


def test_every_variant_answers_and_is_measured(imported):
    run, _ = imported
    manifest = parse_manifest((run.bundle / MANIFEST_FILE).read_bytes())
    for variant in manifest.variants:
        results = Served(manifest, run.bundle, variant.name).answers(EVERYDAY)
        assert {result.label for result in results} == set(folders.SENTIMENTS)
        assert {"load_ms", "memory_bytes"} <= variant.measured.keys()
        assert variant.requirements.memory_bytes > 0


def test_the_card_tells_what_the_person_said(imported):
    run, _ = imported
    manifest = parse_manifest((run.bundle / MANIFEST_FILE).read_bytes())
    card = (run.bundle / manifest.source["card"]).read_text(encoding="utf-8")
    assert "Told by whoever imports." in card


def test_nothing_in_the_bundle_tells_of_this_machine(imported):
    run, source = imported
    for file in run.bundle.iterdir():
        data = file.read_bytes()
        for told in (str(source.parent), sys.prefix, "site-packages", "/cloud_core/"):
            assert told.encode() not in data, file.name


def test_the_same_source_gives_the_same_programs(imported, tmp_path):
    run, source = imported
    again = Run(tmp_path / "work", {"path": str(source)})
    for name in ("model.fp32.onnx", "model.int8.onnx", "tokenizer.json"):
        assert (again.bundle / name).read_bytes() == (run.bundle / name).read_bytes()


def test_a_hubs_model_is_fetched(tmp_path):
    source = folders.sentiment(tmp_path / "source")
    (source / "README.md").write_text("not needed")
    (source / ".gitattributes").write_text("* text")
    with playing_hub("someone/model", source) as (address, asked):
        environment = {"MODELSCOPE_ENDPOINT": address}
        request = {"hub": "modelscope:someone/model@v1.0.0", "variants": ["cpu-fp32"]}
        run = Run(tmp_path / "work", request, environment)
    assert isinstance(run.ended, Imported), run.complaints
    about = parse_manifest((run.bundle / MANIFEST_FILE).read_bytes()).source
    assert (about["kind"], about["id"], about["revision"]) == ("modelscope", "someone/model", "v1.0.0")
    assert not any("README" in path for path in asked)


@pytest.mark.parametrize(("status", "code"), [(404, "not-found"), (403, "forbidden"), (401, "unauthenticated")])
def test_what_the_hub_does_not_give_is_refused(tmp_path, status, code):
    with playing_hub("someone/model", tmp_path, status=status) as (address, _):
        failed = Run(tmp_path / "work", {"hub": "modelscope:someone/model"}, {"MODELSCOPE_ENDPOINT": address}).failed
    assert (failed.code, failed.field, failed.value) == (code, "source", "'modelscope:someone/model'")


def test_a_hub_out_of_reach_is_told_with_a_way_around(tmp_path):
    # A port that nobody listens on.
    environment = {"MODELSCOPE_ENDPOINT": "http://127.0.0.1:9", "MODELSCOPE_REPO_TREE_PAGE_MAX_ATTEMPTS": "1"}
    failed = Run(tmp_path / "work", {"hub": "modelscope:someone/model"}, environment).failed
    assert failed.code == "unreachable"
    assert "import its folder" in failed.message


@pytest.mark.parametrize("hub", ["modelscope:", "modelscope:../x", "modelscope:a/b@", "hf:a/b", "modelscope:a/b/c"])
def test_a_name_that_is_none_is_refused_before_anything_is_asked(tmp_path, hub):
    assert Run(tmp_path / "work", {"hub": hub}).failed.field == "source"


class Sentinel:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self):
        return os.system, (f"touch {self._path}",)


def test_a_hostile_pickle_ends_with_a_reason_and_runs_nothing(tmp_path):
    source = folders.sentiment(tmp_path / "source")
    (source / "pytorch_model.bin").write_bytes(pickle.dumps(Sentinel(tmp_path / "ran")))
    assert Run(tmp_path / "work", {"path": str(source)}).failed.field == "pytorch_model.bin"
    assert not (tmp_path / "ran").exists()


def test_a_golden_set_the_source_does_not_answer_is_refused_with_a_table(tmp_path):
    source = folders.sentiment(tmp_path / "source")
    golden = tmp_path / "golden.json"
    wrong = [{"text": text, "expect": {"label": "正面", "score": 0.123}} for text in EVERYDAY[:3]]
    golden.write_text(json.dumps({"items": wrong}), encoding="utf-8")
    failed = Run(tmp_path / "work", {"path": str(source), "golden": str(golden)}).failed
    assert failed.code == "golden-differs"
    assert all(text[:10] in failed.message for text in EVERYDAY[:3])


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        ({"path": "x", "variants": ["gpu-fp8"]}, "variants"),
        ({"path": "x", "variants": []}, "variants"),
        ({"path": "x", "prune_heads": 1.5}, "prune_heads"),
        ({"path": "x", "name": "Not A Name"}, "name"),
        ({"path": "x", "version": "one"}, "version"),
        ({"path": "x", "hub": "modelscope:a/b"}, "source"),
        ({}, "source"),
        ({"path": "/nowhere/at/all"}, "source"),
    ],
)
def test_a_request_that_cannot_be_is_refused(tmp_path, request_, field):
    failed = Run(tmp_path / "work", request_).failed
    assert failed.field == field
    assert failed.allowed or failed.message


def test_a_request_that_is_none_is_malformed(tmp_path):
    assert Run(tmp_path / "work", {"unknown": 1}).failed.code == "malformed"


def test_a_folder_is_used_once(tmp_path):
    (tmp_path / "work" / BUNDLE).mkdir(parents=True)
    source = folders.sentiment(tmp_path / "source")
    assert Run(tmp_path / "work", {"path": str(source)}).failed.code == "conflict"


def test_more_memory_than_there_is_ends_with_a_reason(tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    (work / "request.json").write_text(json.dumps({"name": "m", "version": "1.0.0", "said": "x", "path": "x"}))
    program = (
        "import sys\n"
        "import numpy\n"
        "from cloud_core.importer import __main__ as importer, config, importing\n"
        "config.memory_limit = lambda: 2 << 30\n"
        "importing.import_model = lambda *_: numpy.ones(4 << 30, dtype=numpy.uint8).sum()\n"
        f"sys.exit(importer.main([{str(work / 'request.json')!r}, {str(work)!r}]))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    last = msgspec.json.decode(done.stdout.splitlines()[-1], type=Said)
    assert isinstance(last, Failed)
    assert (last.code, done.returncode) == ("too-large", 1)


def test_a_missing_extra_says_what_to_install(tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    (work / "request.json").write_text(json.dumps({"name": "m", "version": "1.0.0", "said": "x", "path": "x"}))
    program = (
        "import importlib.util, sys\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *a: None if name == 'modelscope' else find(name, *a)\n"
        "from cloud_core.importer.__main__ import main\n"
        f"sys.exit(main([{str(work / 'request.json')!r}, {str(work)!r}]))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    last = msgspec.json.decode(done.stdout.splitlines()[-1], type=Said)
    assert isinstance(last, Failed)
    assert (last.code, done.returncode) == ("import-extra-missing", 1)
    assert "modelscope" in last.message
    assert "tideline[import]" in last.message


@pytest.mark.parametrize("arguments", [[], ["only-one"]])
def test_usage(arguments):
    command = [sys.executable, "-m", "cloud_core.importer", *arguments]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 2
