"""The same answer alone or in a batch: every session of every shipped variant, and of every task.

The tolerances say what is meant by the same: labels, spans and texts are equal, probabilities and numbers of vectors are within them.
"""

from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloud_core.importer.int8_dynamic import write_dynamic
from shared.bundle.manifest import MANIFEST_FILE, Manifest, TaskKind, parse_manifest
from shared.serving.arrangement import ONNXRUNTIME, OPENVINO, Arrangement
from shared.serving.sessions.open import open_session
from shared.serving.sessions.openvino import imported
from shared.serving.tasks.choose import task_for
from shared.serving.tasks.rounded import rounded
from shared.serving.trial.model import Model
from tests.shared.serving.agreeing import TEXTS, disagreement
from tests.shared.serving.hinted import extracting

SHIPPED = Path(__file__).parents[3] / "cloud_core" / "models" / "shipped"
TOLERANCES = {
    (ONNXRUNTIME, "fp32", ""): 1e-5,
    (ONNXRUNTIME, "int8", ""): 1e-5,
    (OPENVINO, "fp32", ""): 1e-5,
    # Sums in another order may round an int8 number to its neighbour.
    (OPENVINO, "int8", ""): 0.02,
    (OPENVINO, "fp32", "bf16"): 0.005,
}
"""By runtime, the variant's precision, and the one it is computed in."""
TOKENS = {TaskKind.TEXT_GENERATION: {"max_tokens": 8, "temperature": 0}}


class Way(NamedTuple):
    model: str
    variant: str
    runtime: str
    precision: str
    tolerance: float


def manifest_of(model: str) -> Manifest:
    return parse_manifest((SHIPPED / model / MANIFEST_FILE).read_bytes())


def ways() -> list[Way]:
    found = []
    for folder in sorted(path.parent for path in SHIPPED.glob(f"*/{MANIFEST_FILE}")):
        for variant in manifest_of(folder.name).variants:
            if not variant.batch_invariant:
                continue
            for (runtime, own, precision), tolerance in TOLERANCES.items():
                if own == variant.precision:
                    found.append(Way(folder.name, variant.name, runtime, precision, tolerance))
    return found


def has_bf16() -> bool:
    return "BF16" in imported().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def opened(manifest: Manifest, folder: Path, variant: str, arrangement: Arrangement) -> Model:
    form = manifest.variant(variant)
    session = open_session(folder / form.files[0], form, arrangement)
    session.load()
    return Model(rounded(task_for(manifest, folder), manifest, arrangement), session)


@cache
def served(way: Way) -> Model:
    if way.precision == "bf16" and not has_bf16():
        pytest.skip("this processor does not compute in bf16")
    arrangement = Arrangement(runtime=way.runtime, precision=way.precision)
    return opened(manifest_of(way.model), SHIPPED / way.model, way.variant, arrangement)


def check(model: Model, texts: list[str], place: int, tolerance: float, **parameters: object) -> str:
    """How the text in `place` is answered differently alone and among all `texts`."""
    (alone,) = model.answers([texts[place]], parameters)
    return disagreement(alone, model.answers(texts, parameters)[place], tolerance)


BATCHES = st.lists(TEXTS, min_size=2, max_size=7).flatmap(
    lambda texts: st.tuples(st.just(texts), st.integers(0, len(texts) - 1))
)
EVERY_WAY = pytest.mark.parametrize("way", ways(), ids=lambda way: "-".join(filter(None, way[:4])))


def holds(way: Way, texts: list[str], place: int) -> None:
    parameters = TOKENS.get(manifest_of(way.model).task, {})
    assert check(served(way), texts, place, way.tolerance, **parameters) == ""


@EVERY_WAY
@settings(max_examples=20, deadline=None, derandomize=True)
@given(batch=BATCHES)
def test_batch_mates_change_no_answer_of_a_variant_that_says_so(way, batch):
    holds(way, *batch)


@pytest.mark.slow
@EVERY_WAY
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(batch=BATCHES)
def test_batch_mates_change_no_answer_of_a_variant_that_says_so_looked_at_longer(way, batch):
    holds(way, *batch)


def test_every_shipped_variant_and_every_session_was_looked_at():
    every = {
        (path.parent.name, each.name)
        for path in SHIPPED.glob(f"*/{MANIFEST_FILE}")
        for each in manifest_of(path.parent.name).variants
    }
    assert {(way.model, way.variant) for way in ways()} == every
    assert {way[2:4] for way in ways()} == {(ONNXRUNTIME, ""), (OPENVINO, ""), (OPENVINO, "bf16")}


@pytest.fixture(scope="module", params=[ONNXRUNTIME, OPENVINO])
def extractor(request, tmp_path_factory) -> Model:
    folder = tmp_path_factory.mktemp("uie")
    return opened(extracting(folder), folder, "cpu", Arrangement(runtime=request.param))


NAMES = st.lists(st.sampled_from(["王", "明", "去", "北", "京", "。", "a", "b", "好"]), min_size=1, max_size=60).map(
    "".join
)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(texts=st.lists(NAMES, min_size=2, max_size=5), data=st.data())
def test_batch_mates_change_no_extraction(extractor, texts, data):
    place = data.draw(st.integers(0, len(texts) - 1))
    assert check(extractor, texts, place, 1e-5) == ""


def test_one_scale_for_a_whole_batch_would_be_seen(tmp_path):
    """The same check of a form that depends on its batch, and says so in its manifest."""
    manifest = manifest_of("sentiment-zh")
    write_dynamic(SHIPPED / "sentiment-zh" / manifest.variant("cpu-fp32").files[0], tmp_path / "model.onnx")
    form = manifest.variant("cpu-int8")
    session = open_session(tmp_path / "model.onnx", form, Arrangement())
    session.load()
    model = Model(task_for(manifest, SHIPPED / "sentiment-zh"), session)
    texts = [
        "味道好极了！",
        "这家酒店的服务很差，价格是 199 元，我们今天去北京大学图书馆看书",
        "不",
        "iPhone 15 Berlin ABCDEFG",
    ]
    tolerance = TOLERANCES[ONNXRUNTIME, "int8", ""]
    assert any(check(model, texts, place, tolerance) for place in range(len(texts)))
