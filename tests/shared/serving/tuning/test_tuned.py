"""Which record answers which question, and what is kept of records."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from shared.serving.arrangement import Arrangement
from shared.serving.decide.tuned import Machine, Record, arrangement_in, found_in, holds, kept_with
from shared.serving.decide.tuning import Why
from shared.serving.decide.ways import Program, Space, Way

HERE = Machine(machine="x86_64", model="A", features=("avx2",), cores=2, runtimes={"onnxruntime": "1"})
INT8, FP32 = Program(variant="cpu-int8"), Program(variant="cpu-fp32")
BOTH = Space(programs=(INT8, FP32), cores=2)


def record(space=BOTH, *, variant="cpu-int8", digest="d", machine=HERE, at=0.0, spinning=False):
    way = None if variant is None else Way(variant=variant, arrangement=Arrangement(lanes=2, spinning=spinning))
    reason = Why.ALL_OUT if way is None else Why.MEASURED
    return Record(
        digest=digest,
        name="m",
        version="1.0.0",
        machine=machine,
        space=space,
        way=way,
        reason=reason,
        rows=(),
        at=at,
        spent=1.0,
    )


def only(program, space=BOTH):
    return msgspec.structs.replace(space, programs=(program,))


def test_a_record_answers_what_it_was_asked_and_what_is_narrower_with_its_answer_in_it():
    found = record()
    assert holds(found, BOTH)
    assert holds(found, only(INT8))
    assert not holds(found, only(FP32))
    assert not holds(record(only(INT8)), BOTH)
    assert arrangement_in(found, "cpu-int8") == found.way.arrangement
    assert arrangement_in(found, "cpu-fp32") is None
    assert arrangement_in(None, "cpu-int8") is None


def test_another_share_of_the_machine_is_another_question():
    for other in ({"cores": 4}, {"lanes": 1}, {"threads": 2}, {"spinning": True}):
        assert not holds(record(), msgspec.structs.replace(BOTH, **other)), other


def test_who_is_no_longer_alone_on_the_device_does_not_spin():
    dedicated = msgspec.structs.replace(BOTH, spinning=True)
    assert holds(record(dedicated), BOTH)
    assert not holds(record(dedicated, spinning=True), BOTH)
    assert holds(record(dedicated, spinning=True), dedicated)


def test_that_nothing_can_be_recommended_is_an_answer_to_the_same_question_only():
    nothing = record(variant=None)
    assert holds(nothing, BOTH)
    assert not holds(nothing, only(INT8))


def test_a_record_is_of_one_machine_and_one_version_and_the_newest_counts():
    newer = msgspec.structs.replace(HERE, runtimes={"onnxruntime": "2"})
    older, newest = record(at=1.0), record(at=2.0, variant="cpu-fp32")
    records = [newest, older, record(at=3.0, digest="e"), record(at=4.0, machine=newer)]
    assert found_in(records, "d", HERE, BOTH) is newest
    assert found_in(records, "d", HERE, only(INT8)) is older
    assert found_in(records, "f", HERE, BOTH) is None
    assert newer.key != HERE.key


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from((BOTH, only(INT8))), st.floats(0, 100)), max_size=12))
def test_of_one_question_the_last_answer_is_kept_and_no_more_than_allowed(asked):
    kept = ()
    for digest, space, at in asked:
        kept = kept_with(kept, record(space, digest=digest, at=at), most=4)
    keys = [(each.digest, each.space) for each in kept]
    assert len(set(keys)) == len(keys) <= 4
    assert [each.at for each in kept] == sorted(each.at for each in kept)


@given(st.booleans())
def test_a_record_survives_its_encoding(spinning):
    found = record(spinning=spinning)
    assert msgspec.json.decode(msgspec.json.encode(found), type=Record) == found
