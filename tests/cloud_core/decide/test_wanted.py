from hypothesis import given
from hypothesis import strategies as st

from cloud_core.decide.wanted import ANYWHERE, Named, Version, newest, precedence, variant_for, wanted
from shared.bundle.manifest import Requirements, Variant

parts = st.integers(0, 30)
versions = st.builds(
    lambda a, b, c, pre: f"{a}.{b}.{c}{pre}", parts, parts, parts, st.sampled_from(["", "-rc.1", "-rc.10", "-alpha"])
)


def test_semantic_precedence_as_the_specification_lists_it() -> None:
    listed = ["1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2", "1.0.0-beta.11"]
    listed += ["1.0.0-rc.1", "1.0.0", "1.2.0", "1.10.0", "2.0.0"]
    assert sorted(set(listed), key=precedence) == listed


def test_newest_prefers_a_release() -> None:
    assert newest(["1.0.0", "2.0.0-rc.1", "1.10.0", "1.9.0"]) == "1.10.0"
    assert newest(["1.0.0-rc.1", "1.0.0-rc.2"]) == "1.0.0-rc.2"


@given(st.sets(versions, max_size=6), st.sets(versions, max_size=6))
def test_newest_and_assigned_are_served_and_nothing_unpublished(published: set[str], assigned: set[str]) -> None:
    rows = [Version("t", "m", version, f"d-{version}") for version in published]
    named = [Named("t", "m", version) for version in assigned] + [Named("u", "m", version) for version in published]
    served = {each.version for each in wanted(rows, named)}
    assert served <= published
    assert served == (published & assigned) | ({newest(sorted(published))} if published else set())


def variant(name: str, runtime: str = "onnx", **requirements: tuple[str, ...]) -> Variant:
    return Variant(name=name, runtime=runtime, precision="x", files=("f",), requirements=Requirements(**requirements))


TORCH = variant("torch", "torch-export", providers=())
CUDA = variant("cuda-fp16", providers=("CUDAExecutionProvider",))
AVX = variant("cpu-amx", features=("amx_int8",))
FP32 = variant("cpu-fp32")


def test_the_preferred_variant_is_taken_even_where_it_will_be_refused_by_name() -> None:
    assert variant_for([FP32, TORCH], "torch") is TORCH


def test_else_the_first_that_runs_on_what_the_replica_offers() -> None:
    every = [TORCH, CUDA, AVX, FP32]
    assert variant_for(every, "cpu-int8") is FP32
    assert variant_for(every, "cpu-int8", ANYWHERE | {"torch-export"}) is TORCH
    assert variant_for(every, "cpu-int8", ANYWHERE | {"CUDAExecutionProvider"}) is CUDA
    assert variant_for(every, "cpu-int8", ANYWHERE | {"amx_int8"}) is AVX


def test_else_the_first_there_is() -> None:
    assert variant_for([TORCH, CUDA], "cpu-int8") is TORCH
