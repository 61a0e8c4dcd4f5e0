import msgspec

from edge_agent.telemetry.metrics import (
    MORE,
    MOST_DETAIL,
    MOST_EVENTS,
    MOST_KEYS,
    MOST_SCORED,
    OTHER,
    DisagreementKey,
    Interval,
    Key,
)
from edge_agent.telemetry.scored import MOST_LABELS
from shared.protocol.telemetry import Disagreement
from shared.serving.answer import Embedding, Entities, Entity, Label, Response, Result, Where, float32

OK = Key("m", "1.0.0", "local", "ok", "mode")


def answered(*results: Result, where: Where = Where.LOCAL) -> Response:
    return Response(
        id="1",
        model="m",
        version="1.0.0",
        variant="v",
        digest="d",
        task="t",
        results=results,
        where=where,
        why="mode",
    )


def label(name: str, score: float) -> Label:
    return Label(label=name, score=score, scores={name: score})


def test_answers_are_scored_per_version_and_label() -> None:
    interval = Interval()
    interval.request(OK, 0.1, answered(label("good", 0.9), label("bad", 0.6)))
    interval.request(OK, 0.1, answered(label("good", 0.8)))
    interval.request(OK, 0.1, answered(Embedding(embedding=float32([1.0]))))
    interval.request(OK, 0.1, None)
    confidence, scores = interval.scores.take()
    assert confidence["m", "1.0.0"].count == 2
    assert {each.label: each.scores.count for each in scores} == {"good": 2, "bad": 1}
    assert interval.scores.take() == ({}, ())


def test_no_text_is_in_what_is_told_of_answers() -> None:
    interval = Interval()
    secret = Entity(type="PER", start=0, end=2, text="geheim", score=0.7)
    interval.request(OK, 0.1, answered(Entities(entities=(secret,))))
    told = msgspec.json.encode(interval.scores.take()[1])
    assert b"PER" in told
    assert b"geheim" not in told


def test_only_the_device_s_own_answers_are_scored_and_only_so_many() -> None:
    interval = Interval()
    interval.request(OK, 0.1, answered(label("good", 0.9), where=Where.CLOUD))
    for _ in range(MOST_SCORED * 2):
        interval.request(Key("m", "2.0.0", "local", "ok", "mode"), 0.1, answered(label("good", 0.9)))
    confidence, _ = interval.scores.take()
    assert sum(each.count for each in confidence.values()) == MOST_SCORED


def test_labels_are_bounded() -> None:
    interval = Interval()
    interval.request(OK, 0.1, answered(*(label(f"label{i}", 0.5) for i in range(MOST_LABELS * 2))))
    _, scores = interval.scores.take()
    assert len(scores) <= MOST_LABELS + 1
    assert sum(each.scores.count for each in scores) == MOST_LABELS * 2
    assert next(each for each in scores if each.label == OTHER).scores.count > 0


def test_disagreements_are_counted_and_bounded() -> None:
    interval = Interval()
    key = DisagreementKey("m", "1.0.0", "1.1.0", "differ", "label")
    interval.compared(key)
    interval.compared(key)
    assert interval.take_disagreements() == (Disagreement(**key._asdict(), count=2),)
    for i in range(MOST_KEYS * 2):
        interval.compared(DisagreementKey(f"m{i}", "1", "1", "agree", "same"))
    told = interval.take_disagreements()
    assert len(told) <= MOST_KEYS + 1
    assert sum(each.count for each in told) == MOST_KEYS * 2
    assert interval.take_disagreements() == ()


def test_steps_and_convergences_are_counted() -> None:
    interval = Interval()
    interval.stepped("load", "done", 0.5)
    interval.stepped("load", "done", 0.25)
    interval.stepped("fetch", "failed", 2.0)
    interval.converged(3.0)
    steps, converged = interval.take_convergence()
    assert {(each.step, each.outcome): each.seconds.sum for each in steps} == {
        ("load", "done"): 0.75,
        ("fetch", "failed"): 2.0,
    }
    assert converged is not None
    assert (converged.count, converged.sum) == (1, 3.0)
    assert interval.take_convergence() == ((), None)


def test_events_are_bounded_and_the_last_one_says_how_many_more_there_were() -> None:
    interval = Interval()
    for i in range(MOST_EVENTS + 5):
        interval.event(float(i), "failed", "1.2", "x" * 1000)
    events = interval.take_events()
    assert len(events) == MOST_EVENTS + 1
    assert (events[-1].kind, events[-1].detail) == (MORE, "5")
    assert len(events[0].detail) == MOST_DETAIL
    assert interval.take_events() == ()
