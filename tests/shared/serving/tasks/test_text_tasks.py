"""Classification and embedding of hard texts, through real programs whose answers are a known function of the ids."""

import unicodedata

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shared.bundle.manifest import TaskKind
from shared.protocol.errors import Refused
from shared.serving.sessions.onnx import OnnxSession
from shared.serving.tasks.choose import task_for
from shared.serving.tasks.encoding import encoder_for
from tests.shared.serving.bundles import IDS, bundle, tokenizer

texts = st.text(
    st.one_of(
        st.sampled_from("好坏王明ab。 \t\u3000\u200d\ufe0f\u0301👨Ａ１ééÅ가①ﬁ\x00\ufeff"),
        st.characters(),
        st.characters(categories=["Cs"]),
    ),
    min_size=1,
    max_size=40,
)


class Model:
    def __init__(self, folder, kind, **processing):
        self.task = task_for(bundle(folder, "m", kind, **processing), folder)
        self.session = OnnxSession(folder / "model.onnx", threads=1)
        self.session.load()

    def __call__(self, *texts):
        prepared = [self.task.prepare(text, {"truncate": True}) for text in texts]
        (results,) = self.task.steps(self._run, prepared)
        return results

    def _run(self, feeds):
        return self.session.run({spec.name: feeds[spec.name] for spec in self.session.inputs})


@pytest.fixture(scope="module", params=["text-classification", "cls", "mean"])
def model(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("text") / "m"
    if request.param == "text-classification":
        return Model(folder, TaskKind.TEXT_CLASSIFICATION)
    return Model(folder, TaskKind.TEXT_EMBEDDING, pooling=request.param, normalize=True)


def numbers(result) -> list[float]:
    return result.embedding.tolist() if hasattr(result, "embedding") else list(result.scores.values())


@settings(deadline=None)
@given(st.lists(texts, min_size=1, max_size=6))
@example([" ", "好" * 40, "\ud83d", "王"])
def test_batch_mates_change_nothing(model, texts):
    for text, together in zip(texts, model(*texts), strict=True):
        (alone,) = model(text)
        np.testing.assert_allclose(numbers(alone), numbers(together), atol=1e-5)
        assert alone.truncated == together.truncated


@pytest.mark.parametrize("blank", [" ", "\t\n", "\u3000", "\x00\ufeff", "\ud83d", "\u0301"])
def test_a_blank_text_is_answered_and_an_empty_one_refused(model, blank):
    (result,) = model(blank)
    assert np.isfinite(numbers(result)).all()
    with pytest.raises(Refused, match="empty"):
        model("")


@settings(deadline=None)
@given(texts)
@example("e\u0301a\u030a\u212b\u2126\u1100\u1161")
def test_composed_as_the_slow_tokenizer_does_where_the_bundle_says_so(composing, text):
    """BERT's slow tokenizer composes what a cased vocabulary is looked up with."""
    encoder, plain = composing
    known = "".join(character for character in text if unicodedata.category(character) not in ("Cs", "Cn"))
    composed = unicodedata.normalize("NFC", known)
    assert encoder.text(known, truncate=True).ids == plain.text(composed, truncate=True).ids


@pytest.fixture(scope="module")
def composing(tmp_path_factory):
    """A cased vocabulary with composed letters: an encoder that composes, and one that does not."""
    found = []
    for nfc in (True, False):
        folder = tmp_path_factory.mktemp("cased") / "m"
        manifest = bundle(folder, "m", TaskKind.TEXT_CLASSIFICATION, nfc=nfc, max_length=200)
        cased(folder / "tokenizer.json")
        found.append(encoder_for(manifest, folder))
    return found


def cased(path) -> None:
    from tokenizers import normalizers

    made = tokenizer()
    made.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    made.add_tokens(["é", "Å", "Ω", "가"])
    made.save(str(path))


def test_a_lone_surrogate_is_left_out(composing):
    _, plain = composing
    assert plain.text("王\ud83d明\udc00", truncate=False).ids == plain.text("王明", truncate=False).ids
    assert plain.text("\ud83d", truncate=False).ids == [IDS["[CLS]"], IDS["[SEP]"]]
