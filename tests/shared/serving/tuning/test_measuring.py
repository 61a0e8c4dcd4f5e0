"""Real runs: the shipped models, in the process that confines itself, mostly of the first stage alone."""

import asyncio
import shutil
import sys
from pathlib import Path

import msgspec
import pytest

import cloud_core.models
from shared.bundle.manifest import MANIFEST_FILE, Manifest, parse_manifest
from shared.protocol.errors import Corrupt
from shared.serving.decide.tuned import rows_of
from shared.serving.decide.tuning import Why
from shared.serving.decide.ways import Program, Space, Stage
from shared.serving.tuning.machine import machine_here, programs_of
from shared.serving.tuning.run import tune
from shared.serving.tuning.wire import TuneRequest
from shared.serving.versions.plain_onnx import VARIANT, readable, tried_onnx
from tests.shared.serving.bundles import adder

SHIPPED = Path(cloud_core.models.__file__).parent / "shipped"
CRASHING = """
import os
from shared.serving.tuning import child, stand
opened = stand.open_session
def deadly(path, variant, arrangement):
    if variant.name == "cpu-fp32":
        os.abort()
    return opened(path, variant, arrangement)
def told(manifest, folders, *, memory_bytes):
    return Stand(manifest, folders, memory_bytes=memory_bytes, sessions=deadly)
Stand = stand.Stand
stand.Stand = told
child.main()
"""


def copied(name, folder) -> Manifest:
    shutil.copytree(SHIPPED / name, folder)
    return parse_manifest((folder / MANIFEST_FILE).read_bytes())


def tuned(manifest, folder, *, seconds=60.0, program=None, variants=None, **space):
    names = variants or [variant.name for variant in manifest.variants]
    asked = Space(
        **(
            {
                "programs": tuple(Program(variant=name) for name in names),
                "cores": 1,
                "batched": False,
                "seconds": seconds,
            }
            | space
        )
    )
    request = TuneRequest(folders=dict.fromkeys(names, str(folder)), space=asked)
    return asyncio.run(tune(request, **({} if program is None else {"program": program})))


@pytest.mark.parametrize(
    "name",
    [
        "embed-zh",
        "tiny-lm",
        pytest.param("sentiment-zh", marks=pytest.mark.slow),
        pytest.param("ner-zh", marks=pytest.mark.slow),
    ],
)
def test_every_shipped_model_is_measured(name):
    manifest = parse_manifest((SHIPPED / name / MANIFEST_FILE).read_bytes())
    progress, finish = tuned(manifest, SHIPPED / name, cores=2, batched=True, seconds=20.0)
    assert finish.reason is Why.MEASURED, (finish, progress.out)
    assert progress.out == ()
    assert finish.way.variant in {variant.name for variant in manifest.variants}
    assert finish.way.arrangement.lanes * finish.way.arrangement.threads <= 2
    rows = rows_of(progress, finish)
    assert {row.way.variant for row in rows if row.stage is Stage.PROGRAM} == {v.name for v in manifest.variants}
    assert all(seconds > 0 for row in rows for seconds in row.seconds.values())
    assert sum(row.chosen for row in rows) == 1


def test_a_variant_that_answers_otherwise_than_its_golden_set_is_out(tmp_path):
    folder = tmp_path / "m"
    manifest = copied("sentiment-zh", folder)
    golden = msgspec.json.decode((folder / "golden.json").read_bytes())
    golden["tolerances"]["cpu-int8"] = 1e-9
    (folder / "golden.json").write_bytes(msgspec.json.encode(golden))
    progress, finish = tuned(manifest, folder)
    (out,) = progress.out
    assert (out.way.variant, out.code) == ("cpu-int8", "golden-differs")
    assert "score" in out.detail
    assert finish.way.variant == "cpu-fp32"


def test_a_variant_that_kills_the_process_is_out(tmp_path):
    manifest = copied("embed-zh", tmp_path / "m")
    progress, finish = tuned(manifest, tmp_path / "m", program=(sys.executable, "-P", "-c", CRASHING))
    (out,) = progress.out
    assert (out.way.variant, out.code) == ("cpu-fp32", "crashed")
    assert "SIGABRT" in out.detail
    assert finish.way.variant == "cpu-int8"


def test_a_variant_that_is_no_program_is_out(tmp_path):
    folder = tmp_path / "m"
    manifest = copied("embed-zh", folder)
    (folder / "model.int8.onnx").write_bytes(b"no program")
    progress, finish = tuned(manifest, folder)
    assert [out.way.variant for out in progress.out] == ["cpu-int8"]
    assert finish.way.variant == "cpu-fp32"


def test_a_version_that_cannot_be_read_is_not_measured(tmp_path):
    folder = tmp_path / "m"
    manifest = copied("embed-zh", folder)
    (folder / "tokenizer.json").write_bytes(b"{}")
    with pytest.raises(Corrupt, match="tokenizer"):
        tuned(manifest, folder)


def test_a_program_with_no_golden_set_is_measured_on_made_up_inputs(tmp_path):
    path = adder(tmp_path / "Add er.onnx")
    manifest = asyncio.run(tried_onnx(path))
    with readable(manifest, path) as (folder, text):
        space = Space(programs=(Program(variant=VARIANT),), cores=2, batched=False, seconds=5.0)
        request = TuneRequest(folders={VARIANT: str(folder)}, space=space, manifest=text)
        progress, finish = asyncio.run(tune(request))
    assert (finish.reason, progress.out) == (Why.MEASURED, ())
    assert {sample.stage for sample in progress.samples} <= {Stage.PROGRAM, Stage.SHARE}


def test_other_runtimes_are_measured_where_they_are_installed(tmp_path):
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    manifest = copied("embed-zh", tmp_path / "m")
    here = machine_here()
    programs = tuple(program for variant in manifest.variants for program in programs_of(variant, here))
    assert {program.runtime for program in programs} == {"onnxruntime", "openvino"}
    progress, finish = tuned(manifest, tmp_path / "m", programs=programs)
    assert finish.reason is Why.MEASURED
    tried = {row.way.arrangement.runtime for row in rows_of(progress, finish)}
    assert tried == {"onnxruntime", "openvino"}
    # f32 computes what the program says; bf16 is held to what the publisher lets pass as the same model.
    assert {out.way.arrangement.precision for out in progress.out} <= {"bf16"}
