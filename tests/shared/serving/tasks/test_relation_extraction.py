"""What a schema names, found in texts by a program whose answers are known."""

import asyncio
import json

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shared.protocol.errors import Corrupt, Refused
from shared.serving.answer import Relations
from shared.serving.sessions.onnx import OnnxSession
from shared.serving.tasks.encoding import Encoder
from shared.serving.tasks.extraction_schema import DEEPEST, MOST_TYPES, parse_schema
from shared.serving.tasks.extraction_search import sigmoid
from shared.serving.tasks.relation_extraction import MOST_ROWS, RelationExtraction
from shared.serving.versions.golden import difference
from tests.shared.serving.bundles import IDS, TENANT, engine, tokenizer
from tests.shared.serving.faces.server import serving
from tests.shared.serving.hinted import EXTRACTION, LOGIT, PERSON, PLACE, extracting, hinted

ONE = sigmoid(LOGIT) ** 2
"""The score of anything found."""
texts = st.text(
    st.one_of(st.sampled_from("王明北京去。a \u3000\u200d😀é"), st.characters(), st.characters(categories=["Cs"])),
    min_size=1,
    max_size=60,
)


def task_of(**extraction) -> RelationExtraction:
    return RelationExtraction(Encoder(tokenizer(), max_length=20), msgspec.structs.replace(EXTRACTION, **extraction))


class Model:
    def __init__(self, program, **extraction):
        self.task = task_of(**extraction)
        self.session = OnnxSession(program, threads=1)
        self.session.load()
        self.feeds: list[dict] = []

    def prepare(self, text, **parameters):
        return self.task.prepare(text, parameters)

    def __call__(self, *texts, **parameters) -> list[Relations]:
        results: list[Relations | None] = [None] * len(texts)
        for step in self.task.steps(self.run, [self.prepare(text, **parameters) for text in texts]):
            for i, result in enumerate(step):
                if result is not None:
                    assert results[i] is None
                    results[i] = result
        assert None not in results
        return results

    def run(self, feeds):
        self.feeds.append(feeds)
        assert {array.dtype for array in feeds.values()} == {np.dtype(np.int64)}
        return self.session.run({spec.name: feeds[spec.name] for spec in self.session.inputs})


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return hinted(tmp_path_factory.mktemp("hinted") / "model.onnx")


@pytest.fixture(scope="module")
def model(program):
    return Model(program)


@pytest.fixture(scope="module")
def wide(program):
    """The same with room for every text."""
    return Model(program, window=500, stride=450)


def plain(result: Relations) -> list[tuple]:
    return [(each.type, each.subject, each.object, each.object_start) for each in result.relations]


def test_a_flat_schema_gives_entities_of_no_subject(model):
    (result,) = model("王明去北京。王。明", schema={PERSON: None, PLACE: None})
    assert plain(result) == [(PERSON, None, "王明", 0), (PERSON, None, "王。明", 6), (PLACE, None, "北京", 3)]
    assert {relation.score for relation in result.relations} == {ONE}
    (result,) = model("王明去北京。")
    assert plain(result) == [(PERSON, None, "王明", 0)]


def test_nested_types_give_relations_in_the_order_of_schema_and_text(model):
    schema = {PERSON: {PLACE: None}, PLACE: {PERSON: {PLACE: None}}}
    (result,) = model("王明去北京", schema=json.dumps(schema))
    person, place = (PERSON, "王明", 0), (PLACE, "北京", 3)
    first, second = result.relations
    assert (first.subject_type, first.subject, first.subject_start, first.subject_end) == (*person, 2)
    assert (first.type, first.object, first.object_start, first.object_end, first.within) == (*place, 5, ())
    assert first.score == pytest.approx(ONE**2)
    assert [(entity.type, entity.text, entity.start) for entity in second.within] == [place]
    assert (second.subject_type, second.subject, second.subject_start) == person
    assert second.score == pytest.approx(ONE**3)
    # A level is asked at once, and the text read once for it.
    assert len(model.feeds[-1]["input_ids"]) == 1


@settings(deadline=None)
@given(st.lists(texts, min_size=1, max_size=4))
@example(["王明去北京。" * 20, "\ud83d王明", " ", "王明"])
def test_spans_are_where_they_say_and_neither_batch_mates_nor_windows_change_them(model, wide, texts):
    schema = {PERSON: {PLACE: None}, PLACE: None}
    together = model(*texts, schema=schema)
    for text, result in zip(texts, together, strict=True):
        assert model(text, schema=schema)[0] == result
        for relation in result.relations:
            assert 0 <= relation.object_start < relation.object_end <= len(text)
            assert text[relation.object_start : relation.object_end] == relation.object
            if relation.subject is not None:
                assert text[relation.subject_start : relation.subject_end] == relation.subject
        tops = [relation.object_start for relation in result.relations if relation.subject is None]
        assert tops == sorted(tops)
        # The program knows words, not places: windows cannot change what is found.
        assert wide(text, schema=schema)[0] == result


def test_windows_are_read_once_and_their_hints_begin_after_them(program):
    model = Model(program)
    (result,) = model("去" * 30 + "王明" + "去" * 30, schema={PERSON: None, PLACE: None})
    assert plain(result) == [(PERSON, None, "王明", 30)]
    (feeds,) = model.feeds
    assert feeds["input_ids"].shape == (5, 20)
    assert feeds["input_ids"][0, 0] == IDS["[CLS]"]
    assert feeds["attention_mask"].sum(axis=1).tolist() == [20, 20, 20, 20, 8]
    assert feeds["hint_start"].tolist() == [20, 20]
    assert sorted(zip(feeds["row_window"].tolist(), feeds["row_hint"].tolist(), strict=True)) == [
        (window, hint) for window in range(5) for hint in range(2)
    ]
    model("去王明", schema={PERSON: None})
    assert model.feeds[-1]["hint_start"].tolist() == [5]


SCHEMAS = [
    ("{", "parameters.schema", "not JSON"),
    ("[]", "parameters.schema", "not types"),
    (7, "parameters.schema", "not types"),
    ({}, "parameters.schema", "not types"),
    ({"a": {}}, "parameters.schema.a", "not types"),
    ({"a": "b"}, "parameters.schema.a", "not types"),
    ({" ": None}, "parameters.schema", "not a type"),
    ({"a" * 65: None}, "parameters.schema", "not a type"),
    ({str(i): None for i in range(MOST_TYPES + 1)}, "parameters.schema", "too many types"),
    ({"a": {str(i): None for i in range(MOST_TYPES)}}, "parameters.schema", "too many types"),
    ({"a": {"b": {"c": {"d": {"e": None}}}}}, "parameters.schema.a.b.c.d", "too deep"),
    ('{"a":' * 5000, "parameters.schema", "too long"),
    ("[" * 16_000, "parameters.schema", "not JSON"),
]


@pytest.mark.parametrize(("schema", "field", "message"), SCHEMAS)
def test_a_schema_that_cannot_be_is_refused_by_name(model, schema, field, message):
    with pytest.raises(Refused, match=message) as refused:
        model.prepare("王明", schema=schema)
    assert refused.value.field == field
    # Guessing what it costs is no error.
    assert model.task.estimate("王明", {"schema": schema}) > 0


def test_the_deepest_and_widest_schemas_are_taken():
    assert DEEPEST == 4
    parse_schema({"a": {"b": {"c": {"d": None}}}}, field="s")
    parse_schema({str(i): None for i in range(MOST_TYPES)}, field="s")


def test_texts_and_questions_have_limits(program):
    model = Model(program)
    with pytest.raises(Refused, match="64 windows of 20") as refused:
        model("王明" * 1000)
    assert refused.value.field == "text"
    for text in ("王明" * 1000, "王明" + " " * 1_000_000):
        (cut,) = model(text, truncate=True)
        assert cut.truncated
    assert not model("王明" * 400)[0].truncated
    with pytest.raises(Refused, match="too much to look for") as refused:
        model("王明" * 400, schema={str(i): None for i in range(64)})
    assert refused.value.field == "parameters.schema"
    with pytest.raises(Refused, match="empty"):
        model("")


def test_what_follows_from_too_much_is_not_asked_and_that_is_said(program):
    model = Model(program)
    # 40 persons in 7 windows, each asked for 6 things.
    many = {PERSON: {PLACE: None} | {f"{PLACE}{i}": None for i in range(5)}}
    (result,) = model("王明" * 40 + "北京", schema=many)
    assert result.truncated
    rows = sum(len(feeds["row_hint"]) for feeds in model.feeds)
    assert MOST_ROWS - 7 < rows <= MOST_ROWS
    assert all(len(feeds["row_hint"]) * feeds["input_ids"].shape[1] <= 4096 for feeds in model.feeds)
    # Those that were asked first are answered.
    assert [relation.subject_start for relation in result.relations[:5]] == [0, 2, 4, 6, 8]


def test_a_search_nobody_waits_for_is_given_up(program):
    model = Model(program)
    schema = {PERSON: {PLACE: None}}
    batch = [model.prepare(text, schema=schema) for text in ("王明北京", "去", "王明北京")]
    steps = model.task.steps(model.run, batch)
    first = next(steps)
    assert [result is not None for result in first] == [False, True, False]
    second = steps.send({0})
    assert len(model.feeds[-1]["input_ids"]) == 1
    assert [result is not None for result in second] == [False, False, True]
    assert list(steps) == []


def test_the_estimate_counts_windows_and_types(model):
    for length, schema in ((3, {PERSON: None}), (100, {PERSON: None, PLACE: {PERSON: None}})):
        prepared = model.prepare("王" * length, schema=schema)
        guess = model.task.estimate("王" * length, {"schema": schema})
        assert 0.5 < guess / (prepared.rows * prepared.tokens) < 2


def test_a_program_or_bundle_that_cannot_do_it_is_corrupt(model):
    with pytest.raises(Corrupt, match="heads"):
        list(
            model.task.steps(
                lambda feeds: {"heads": np.zeros((1, 2)), "tails": np.zeros((1, 2))}, [model.prepare("王明")]
            )
        )
    with pytest.raises(Corrupt, match="no output"):
        list(model.task.steps(lambda feeds: {}, [model.prepare("王明")]))
    for wrong in ({"stride": 0}, {"threshold": 1.0}, {"schema": "{"}, {"stride": 99}):
        with pytest.raises(Corrupt):
            task_of(**wrong)


def test_every_face_gives_relations(tmp_path):
    manifest = extracting(tmp_path / "uie", schema=f'{{"{PERSON}": {{"{PLACE}": null}}}}')

    async def main():
        async with engine() as made:
            await made.load(TENANT, manifest, "d" * 64, tmp_path / "uie", "cpu")
            made.activate(TENANT, {"uie": "1.0.0"})
            async with serving(made) as server:
                body = {"task_type": "relation", "text": "😀王明去北京"}
                status, _, document = await server.post("/predict", body)
                assert status == 200
                (relation,) = document["result"]["relations"]
                assert (relation["type"], relation["subject"], relation["object"]) == (PLACE, "王明", "北京")
                assert (relation["subject_start"], relation["object_end"]) == (1, 6)
                assert relation["score"] == pytest.approx(ONE**2)
                flat = body | {"parameters": {"schema": {PERSON: None}}}
                _, _, document = await server.post("/predict", flat)
                assert [each["subject"] for each in document["result"]["relations"]] == [None]
                status, _, document = await server.post("/predict", body | {"parameters": {"schema": {"a": 3}}})
                assert (status, document["field"]) == (422, "parameters.schema.a")
                infer = {
                    "inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["王明去北京"]}],
                    "parameters": {"schema": json.dumps({PERSON: None})},
                }
                status, _, document = await server.post("/v2/models/uie/infer", infer)
                assert status == 200
                (output,) = document["outputs"]
                assert (output["name"], output["datatype"]) == ("relations", "BYTES")
                assert [each["object"] for each in json.loads(output["data"][0])] == ["王明"]
                _, _, document = await server.get("/v2/models/uie")
                assert [each["name"] for each in document["outputs"]] == ["relations"]

    asyncio.run(main())


def test_the_golden_set_tells_relations_apart(model):
    (result,) = model("王明去北京", schema={PERSON: {PLACE: None}})
    entry = {"type": PLACE, "subject": "王明", "object": "北京", "score": ONE**2, "object_start": 3}
    assert difference({"relations": [entry]}, result, 1e-4) is None
    for name, value in (("type", "x"), ("subject", None), ("object", "北"), ("object_start", 2), ("score", 0.1)):
        assert name in (difference({"relations": [entry | {name: value}]}, result, 1e-4) or "")
    assert difference({"relations": []}, result, 1e-4) == "1 relations instead of 0"
