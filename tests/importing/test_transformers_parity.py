"""Folders of transformers and sentence-transformers beside our bundles: the same labels, tags and vectors as their own pipelines give."""

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from transformers import pipeline

from shared.serving.versions.golden import difference
from tests.importing import transformers_folders as hf
from tests.importing.folders import TOPICS
from tests.importing.sentences import sentences

pytestmark = pytest.mark.slow
CLOSE = 1e-4
FAMILIES = ("bert", "distilbert", "electra", "ernie", "roberta", "xlm-roberta")
WORDPIECES = FAMILIES[:4]


@pytest.mark.parametrize("family", FAMILIES)
def test_classification(bundle, family):
    labels = TOPICS if family == "bert" else ("no", "yes")
    ours = bundle(f"hf-{family}", lambda folder: hf.classification(folder, family=family, labels=labels))
    classify = pipeline("text-classification", model=str(ours.source), device=-1)
    texts = sentences()
    assert ours.manifest.labels == tuple(labels)
    for text, result in zip(texts, ours.served.answers(texts), strict=True):
        wanted = classify(text, top_k=None, truncation=True, max_length=hf.POSITIONS)
        assert result.scores == pytest.approx({each["label"]: each["score"] for each in wanted}, abs=CLOSE)


@pytest.mark.parametrize("family", WORDPIECES)
def test_tags(bundle, family):
    """Every word has the tag that transformers' pipeline gives to its first piece."""
    ours = bundle(f"hf-tags-{family}", lambda folder: hf.tagging(folder, family=family))
    texts = sentences()
    wanted = ours.opened.reference(texts)
    pairs = [
        (text, expect, result)
        for text, expect, result in zip(texts, wanted, ours.served.answers(texts), strict=True)
        if expect is not None
    ]
    assert len(pairs) >= 200
    assert sum(len(expect["entities"]) for _, expect, _ in pairs) > 500
    for text, expect, result in pairs:
        assert difference(expect, result, CLOSE) is None, text


def test_words_and_groups_are_those_of_the_pipeline(bundle):
    """With no tag that goes on, every rule of grouping says the same: transformers' own words and entities."""
    ours = bundle("hf-singles", lambda folder: hf.tagging(folder, labels=("O", "B-PER", "B-LOC")))
    grouped = pipeline("token-classification", model=str(ours.source), device=-1, aggregation_strategy="first")
    texts = sentences()
    compared = 0
    for text, expect in zip(texts, ours.opened.reference(texts), strict=True):
        if expect is not None:
            own = [(each["entity_group"], each["start"], each["end"]) for each in grouped(text)]
            assert [(each["type"], each["start"], each["end"]) for each in expect["entities"]] == own
            compared += 1
    assert compared >= 200


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("mean", {}),
        ("cls", {"pooling": "cls_token", "normalize": False, "max_length": None}),
        ("distilbert", {"family": "distilbert"}),
        ("xlm-roberta", {"family": "xlm-roberta", "pooling": "cls_token"}),
    ],
)
def test_sentence_vectors(bundle, name, given):
    ours = bundle(f"st-{name}", lambda folder: hf.sentences(folder, **given))
    own = SentenceTransformer(str(ours.source), device="cpu")
    texts = sentences()
    assert ours.manifest.processing.max_length == own.max_seq_length
    for text, result in zip(texts, ours.served.answers(texts), strict=True):
        wanted = own.encode([text], show_progress_bar=False)[0]
        assert np.abs(result.embedding - wanted).max() <= CLOSE, text


def test_vectors_are_compared_without_sentence_transformers_too(bundle, monkeypatch):
    """It is no part of the import extra: transformers computes what it would."""
    ours = bundle("st-mean", hf.sentences)
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    alone = bundle("st-alone", hf.sentences)
    assert alone.opened.about["compared_with"] == "transformers"
    texts = sentences()
    for one, other in zip(ours.opened.reference(texts), alone.opened.reference(texts), strict=True):
        assert np.abs(np.array(one["embedding"]) - other["embedding"]).max() <= CLOSE
