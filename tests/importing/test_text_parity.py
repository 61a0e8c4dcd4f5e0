"""ModelScope's own pipelines beside our bundles: the same labels, scores, entities and vectors, but where a pipeline is known to fail.

What is known to fail or to mean something else is said by `excused`, with the reason; everything else must be the same.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from modelscope.pipelines import pipeline

from shared.serving.answer import Embedding, Entities, Label
from shared.serving.versions.golden import difference
from tests.importing import folders
from tests.importing.sentences import EMPTY, PROMPTS, sentences

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The `device` argument is deprecated:FutureWarning"),
]
CLOSE = 1e-4
BATCHED = 1e-5
"""How far an answer in a batch may be from the same one alone."""
CLASSIFICATION, ENTITIES, EMBEDDING = "text-classification", "named-entity-recognition", "sentence-embedding"
SHORT = 128
"""Pipelines pad every text to their longest: most forms are compared with a shorter one."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """One form of folder. `words`: places are words, not characters; `slow`: with the tokenizer written in Python."""

    task: str
    make: Callable[[Path], Path]
    longest: int = SHORT
    words: bool = False
    slow: bool = False
    scored: bool = True


def made(builder: Callable[..., Path], **given: Any) -> Callable[[Path], Path]:
    return lambda folder: builder(folder, **given)


FORMS: Mapping[str, Form] = {
    "sentiment": Form(task=CLASSIFICATION, make=made(folders.sentiment), longest=512),
    "topics": Form(
        task=CLASSIFICATION,
        make=made(folders.sentiment, backbone="bert", labels=folders.TOPICS, max_length=SHORT),
    ),
    "structbert": Form(task=CLASSIFICATION, make=made(folders.classification, max_length=SHORT)),
    "bert": Form(task=CLASSIFICATION, make=made(folders.classification, kind="bert", max_length=SHORT)),
    "cased": Form(task=CLASSIFICATION, make=made(folders.sentiment, cased=True, max_length=SHORT)),
    "fast": Form(
        task=CLASSIFICATION,
        make=made(folders.sentiment, cased=True, tokenizer={"use_fast": True}, max_length=SHORT),
    ),
    "raner": Form(task=ENTITIES, make=made(folders.raner), longest=512),
    "raner-bare": Form(task=ENTITIES, make=made(folders.raner, form="bare", max_length=SHORT)),
    "raner-cased": Form(task=ENTITIES, make=made(folders.raner, cased=True, max_length=SHORT)),
    "raner-words": Form(task=ENTITIES, make=made(folders.raner, words=False, fast=True, max_length=SHORT), words=True),
    "raner-words-slow": Form(
        task=ENTITIES, make=made(folders.raner, words=False, max_length=SHORT), words=True, slow=True
    ),
    "softmax": Form(task=ENTITIES, make=made(folders.softmax_ner), longest=512, scored=False),
    "softmax-words": Form(
        task=ENTITIES, make=made(folders.softmax_ner, words=False, fast=True), longest=512, words=True, scored=False
    ),
    "gte": Form(task=EMBEDDING, make=made(folders.gte)),
    "gte-long": Form(task=EMBEDDING, make=made(folders.gte, max_length=512, pooler="cls", normalize=True), longest=512),
    "gte-avg": Form(task=EMBEDDING, make=made(folders.gte, pooler="avg", normalize=True)),
    "gte-first-last": Form(task=EMBEDDING, make=made(folders.gte, pooler="avg_first_last")),
    "gte-top2-cased": Form(task=EMBEDDING, make=made(folders.gte, pooler="avg_top2", cased=True, normalize=True)),
    "gte-safetensors": Form(task=EMBEDDING, make=made(folders.gte, safe=True)),
}


def excused(form: Form, text: str) -> str | None:
    """Why ModelScope's answer to this text is none, or another than it should be; None where ours must be the same."""
    if form.task != ENTITIES:
        return None
    if not text:
        return "an empty text makes it fail: there is nothing to reshape"
    if "[SEP]" in text:
        return "it takes what follows for a prompt; here it is part of the text"
    if form.words:
        if any(token in text for token in ("[CLS]", "[MASK]", "[PAD]", "[UNK]")):
            return "it takes the name of a special token for the token; here it is part of the text"
        if not text.strip("\x00\u200d\ufe0f \t\u3000"):
            return "a text without pieces makes it fail as an empty one does"
    # No text here is near the limit and has characters of several pieces.
    if not form.words and len(text) > form.longest - 2:
        return "it fails on more pieces than it has places for; here they are read in windows"
    return None


@dataclass(frozen=True)
class Beside:
    """What a pipeline said: per text what it gives in the golden set's form, or the error it ended with."""

    said: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: dict[str, Exception] = field(default_factory=dict)


@pytest.fixture(scope="module", params=sorted(FORMS))
def compared(request, bundle):
    """A form, our bundle of it, and what ModelScope's pipeline over the same folder says."""
    form = FORMS[request.param]
    ours = bundle(request.param, form.make)
    opened = pipeline(form.task, model=str(ours.source), device="cpu")
    if request.param in ("gte-first-last", "gte-top2-cased"):
        # Without it the pipeline has no layers to pool, and fails on every text.
        opened.model.config.output_hidden_states = True
    beside = Beside()
    for text in asked(form):
        try:
            beside.said[text] = answered(form, opened, text)
        except Exception as error:
            beside.failed[text] = error
    return form, ours, beside


def asked(form: Form) -> list[str]:
    return [*sentences(), *((*PROMPTS, *EMPTY) if form.task == ENTITIES else ())]


def answered(form: Form, opened: Any, text: str) -> dict[str, Any]:
    if form.task == CLASSIFICATION:
        answer = opened(text)
        scores = dict(zip(answer["labels"], answer["scores"], strict=True))
        best = max(scores, key=scores.__getitem__)
        return {"label": best, "score": scores[best], "scores": scores}
    if form.task == EMBEDDING:
        vector = opened({"source_sentence": [text]})["text_embedding"][0]
        return {"embedding": vector.tolist(), "norm": float(np.linalg.norm(vector))}
    found = [
        {"type": each["type"], "start": int(each["start"]), "end": int(each["end"])}
        # The probability of a tagger without CRF is that of the token before: a known slip.
        | ({"score": float(each["prob"])} if form.scored else {})
        for each in opened(text)["output"]
    ]
    return {"entities": found}


def comparable(form: Form, beside: Beside) -> list[str]:
    return [text for text in beside.said if excused(form, text) is None and not cut(form, text)]


def cut(form: Form, text: str) -> bool:
    """By words the pipeline cuts what is too long without saying so, where here it is read in windows."""
    return form.words and len(text) > form.longest - 2


def test_answers_are_the_pipelines(compared):
    form, ours, beside = compared
    texts = comparable(form, beside)
    assert len(texts) >= 200
    differing = {}
    for text, result in zip(texts, ours.served.answers(texts), strict=True):
        wanted = beside.said[text]
        if (what := difference(wanted, result, CLOSE)) is not None:
            differing[text] = what
        elif isinstance(result, Label):
            assert result.scores == pytest.approx(wanted["scores"], abs=CLOSE)
    assert differing == {}


def test_the_pipeline_fails_only_where_it_is_known_to(compared):
    form, _, beside = compared
    unexpected = {text: error for text, error in beside.failed.items() if excused(form, text) is None}
    if form.slow:
        # It looks for pieces in the text as they are written: [UNK] is not there, nor are accents that were stripped.
        known = {text for text, error in unexpected.items() if str(error).endswith("substring not found")}
        assert len(known) >= 10
        unexpected = {text: error for text, error in unexpected.items() if text not in known}
    assert unexpected == {}


def test_where_the_pipeline_fails_the_bundle_answers(compared):
    _, ours, beside = compared
    texts = [text for text in beside.failed if text]
    for text, result in zip(texts, ours.served.answers(texts), strict=True):
        assert isinstance(result, Entities)
        assert not result.truncated
        for entity in result.entities:
            assert entity.text == text[entity.start : entity.end] != ""


def test_a_batch_changes_nothing(compared):
    _, ours, beside = compared
    texts = sorted((text for text in beside.said if text), key=hash_of)
    alone, together = ours.served.answers(texts), ours.served.answers(texts, rows=16)
    for one, other in zip(alone, together, strict=True):
        match one, other:
            case Label(), Label():
                assert one.scores == pytest.approx(other.scores, abs=BATCHED)
            case Embedding(), Embedding():
                assert np.abs(one.embedding - other.embedding).max() <= BATCHED
            case Entities(), Entities():
                assert spans(one) == spans(other)
                scores = [entity.score for entity in one.entities]
                assert scores == pytest.approx([entity.score for entity in other.entities], abs=BATCHED)


def hash_of(text: str) -> int:
    """Some order that mixes long and short ones, the same in every run."""
    return sum(ord(character) * (place + 7) for place, character in enumerate(text)) % 9973


def spans(result: Entities) -> list[tuple[str, int, int]]:
    return [(entity.type, entity.start, entity.end) for entity in result.entities]


def test_the_program_is_what_torch_computes(compared):
    _, ours, _ = compared
    assert 0 < ours.difference <= 3e-5


ALPHABET: Sequence[str] = (
    *"好天气面馆小明杭州的了在a bZ9.,!?-、。《》（）",
    *"éÅßΩñİeu",
    *"\u0301\u0300\u0308\u212b\u2126",
    *"ＡＢ１２　",
    *"😀👍🏽\u200d\ufe0f👩",
    *"\u200b\ufeff\u00ad\x00\t\n\u2028",
    *"한글カタ①㎡½",
    *"𠮷𡈽𠀀",
)


@pytest.fixture(scope="module")
def tagger(bundle):
    ours = bundle("raner", FORMS["raner"].make)
    return ours, pipeline(ENTITIES, model=str(ours.source), device="cpu")


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(text=st.text(st.sampled_from(ALPHABET), min_size=1, max_size=60))
def test_entities_stand_where_the_pipeline_finds_them(tagger, text):
    ours, opened = tagger
    wanted = answered(FORMS["raner"], opened, text)
    [found] = ours.served.answers([text])
    assert difference(wanted, found, CLOSE) is None
    assert [entity.text for entity in found.entities] == [text[entity.start : entity.end] for entity in found.entities]


@pytest.mark.parametrize("name", ["sentiment", "cased", "fast", "gte"])
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(text=st.text(st.sampled_from(ALPHABET), min_size=1, max_size=80))
def test_token_ids_are_those_of_the_source(bundle, tokenizers, name, text):
    own, limit = tokenizers(name)
    wanted = own(text, truncation=True, max_length=limit)["input_ids"]
    found = bundle(name, FORMS[name].make).served.ids(text)
    assert found == wanted


@pytest.fixture(scope="module")
def tokenizers(bundle):
    """By form, the tokenizer ModelScope's preprocessor uses, and where it cuts."""
    known: dict[str, tuple[Any, int]] = {}

    def of(name: str) -> tuple[Any, int]:
        if name not in known:
            source = bundle(name, FORMS[name].make).source
            preprocessor = pipeline(FORMS[name].task, model=str(source), device="cpu").preprocessor
            known[name] = (preprocessor.nlp_tokenizer.tokenizer, FORMS[name].longest)
        return known[name]

    return of
