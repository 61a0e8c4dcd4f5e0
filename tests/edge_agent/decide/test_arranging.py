"""Who says how a version runs: the user, then the fleet, then this device's own measurement, then what suits its cores."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.decide.arranging import MOST_LANES, Arranged, Fixed, Source, arrange, by_default
from edge_agent.decide.idleness import Because, Quiet, may_measure
from edge_agent.decide.variants import Device, advice, choose_variant, choose_variants, fitting
from shared.bundle.manifest import File, Manifest, Requirements, TaskKind, Variant
from shared.protocol.desired import ModelRef
from shared.serving.arrangement import Arrangement

VARIANT = Variant(name="cpu-int8", runtime="onnx", precision="int8", files=("m.onnx",))
SLOW = msgspec.structs.replace(VARIANT, measured={"ms_1x32": 50.0})
NUMBERS = st.one_of(st.none(), st.integers(1, 64))
ARRANGEMENTS = st.builds(
    Arrangement,
    lanes=st.integers(-1, 40),
    threads=st.integers(-1, 40),
    spinning=st.booleans(),
    runtime=st.sampled_from(("onnxruntime", "openvino", "")),
    rows=st.one_of(st.none(), st.integers(-1, 100)),
)


def chosen(fixed=Fixed(), *, told=None, measured=None, cores=4, runtimes=("onnxruntime",), failed=(), variant=VARIANT):  # noqa: B008
    return arrange(fixed, variant, told=told, measured=measured, cores=cores, runtimes=runtimes, failed=failed)


TOLD, MEASURED = Arrangement(lanes=2, threads=2), Arrangement(lanes=1, threads=4)


def test_the_order():
    assert chosen(told=TOLD, measured=MEASURED) == Arranged(arrangement=TOLD, source=Source.TOLD)
    assert chosen(measured=MEASURED) == Arranged(arrangement=MEASURED, source=Source.MEASURED)
    assert chosen() == Arranged(arrangement=Arrangement(lanes=4), source=Source.DEFAULT)
    assert chosen(Fixed(lanes=3, threads=1)) == Arranged(arrangement=Arrangement(lanes=3), source=Source.SETTINGS)


def test_what_the_user_set_holds_whoever_says_the_rest():
    found = chosen(Fixed(threads=1), told=msgspec.structs.replace(TOLD, rows=8))
    assert found.arrangement == Arrangement(lanes=2, threads=1, rows=8)
    assert chosen(Fixed(lanes=1), measured=MEASURED).arrangement == MEASURED


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (Arrangement(lanes=3, threads=2), "more than the 4 cores"),
        (Arrangement(runtime="openvino"), "no openvino"),
        (Arrangement(lanes=0), "impossible"),
        (Arrangement(rows=-1), "impossible"),
        (Arrangement(tokens=1 << 40), "impossible"),
    ],
)
def test_what_cannot_be_followed_is_not_and_says_why(told, words):
    found = chosen(told=told, measured=MEASURED)
    assert (found.source, found.arrangement) == (Source.MEASURED, MEASURED)
    assert found.ignored.startswith("told: ")
    assert words in found.ignored


def test_what_did_not_run_is_not_tried_again():
    found = chosen(told=TOLD, measured=MEASURED, failed=(TOLD,))
    assert (found.arrangement, found.ignored) == (MEASURED, "told: it did not run like that")
    assert chosen(measured=MEASURED, failed=(MEASURED,)).source is Source.DEFAULT


@given(
    st.builds(Fixed, lanes=NUMBERS, threads=NUMBERS), st.one_of(st.none(), ARRANGEMENTS),
    st.one_of(st.none(), ARRANGEMENTS), st.integers(1, 128), st.sampled_from((VARIANT, SLOW)),
)  # fmt: skip
def test_whatever_is_said_it_can_run_here_and_what_is_fixed_holds(fixed, told, measured, cores, variant):
    found = chosen(fixed, told=told, measured=measured, cores=cores, variant=variant).arrangement
    assert fixed.lanes in (None, found.lanes)
    assert fixed.threads in (None, found.threads)
    assert min(found.lanes, found.threads, found.rows or 1) >= 1
    assert found.runtime == "onnxruntime"
    if fixed == Fixed():
        assert found.lanes * found.threads <= cores


@given(st.integers(1, 256))
def test_the_default_uses_the_cores_in_few_lanes(cores):
    for variant in (VARIANT, SLOW):
        found = by_default(Fixed(), variant, cores)
        assert 1 <= found.lanes <= MOST_LANES
        assert found.lanes * found.threads <= cores
    assert by_default(Fixed(), SLOW, 8).threads > by_default(Fixed(), VARIANT, 8).threads


def test_a_limit_of_the_generation_is_threads_of_one_lane_where_there_are_no_more_cores():
    assert by_default(Fixed(threads=7), VARIANT, 4) == Arrangement(lanes=1, threads=7)
    assert by_default(Fixed(lanes=2), SLOW, 4) == Arrangement(lanes=2, threads=2)
    assert by_default(Fixed(lanes=9), SLOW, 4) == Arrangement(lanes=9, threads=1)


@given(st.floats(0, 1e6), st.floats(0, 1), st.booleans(), st.floats(0, 1e5), st.floats(0, 1))
def test_nothing_is_measured_unless_it_is_quiet(quiet_s, used, converging, after_s, most):
    wait = may_measure(Quiet(quiet_s=quiet_s, used=used, converging=converging), after_s=after_s, most=most)
    if wait is None:
        assert quiet_s >= after_s
        assert used <= most
        assert not converging
    else:
        assert wait.seconds > 0
        assert wait.reason in (Because.REQUESTS, Because.CONVERGING, Because.BUSY)


FORMS = ("cpu-fp32", "cpu-int8", "cuda-fp16")
MANIFEST = Manifest(
    name="m",
    version="1.0.0",
    task=TaskKind.TENSOR,
    variants=tuple(
        msgspec.structs.replace(
            VARIANT,
            name=name,
            requirements=Requirements(
                memory_bytes=100 if name == "cpu-fp32" else 50,
                providers=("CUDAExecutionProvider",) if name.startswith("cuda") else ("CPUExecutionProvider",),
            ),
        )
        for name in FORMS
    ),
    files=(File(path="m.onnx", size=0, sha256="0" * 64, chunks=()),),
)
OPEN, INSISTING = Device(preferred="cpu-int8", insists=False), Device(preferred="cpu-int8")


def test_the_variant_measured_best_is_run_unless_somebody_named_one():
    assert choose_variant(MANIFEST, OPEN) == "cpu-int8"
    assert choose_variant(MANIFEST, OPEN, advised="cpu-fp32") == "cpu-fp32"
    assert choose_variant(MANIFEST, INSISTING, advised="cpu-fp32") == "cpu-int8"
    assert choose_variant(MANIFEST, OPEN, wanted="cpu-int8", advised="cpu-fp32") == "cpu-int8"
    assert choose_variant(MANIFEST, OPEN, advised="cuda-fp16") == "cpu-int8"
    assert choose_variant(MANIFEST, OPEN, advised="no-such") == "cpu-int8"
    refs = (ModelRef(name="m", version="1.0.0", digest="d"),)
    assert choose_variants(refs, {"d": MANIFEST}, OPEN, {"d": "cpu-fp32"}) == {"d": "cpu-fp32"}


def test_what_fits_may_be_measured_and_what_was_named_alone():
    def names(device, **more):
        return [variant.name for variant in fitting(MANIFEST, device, **more)]

    assert names(OPEN) == ["cpu-int8", "cpu-fp32"]
    assert names(INSISTING) == ["cpu-int8"]
    assert names(Device(preferred="no-such")) == ["cpu-fp32", "cpu-int8"]
    assert names(OPEN, wanted="cpu-fp32") == ["cpu-fp32"]
    assert names(OPEN, wanted="cuda-fp16") == []
    assert names(msgspec.structs.replace(OPEN, memory_bytes=60)) == ["cpu-int8"]


def test_advice_costs_nothing():
    measured = {"a": "cpu-fp32", "b": "cpu-fp32", "c": "cpu-fp32"}
    found = advice(measured, running={"a": "cpu-int8"}, installed=frozenset({("b", "cpu-fp32"), ("c", "cpu-int8")}))
    # What runs stays, what is installed is used, and nothing is fetched for it.
    assert found == {"a": "cpu-int8", "b": "cpu-fp32"}
    assert advice({}, running={"a": "cpu-int8"}, installed=frozenset()) == {}
