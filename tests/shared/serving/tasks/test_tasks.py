from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.bundle.manifest import Processing
from shared.protocol.errors import Corrupt, Refused
from shared.serving.tasks.crf import Crf, Span, read_crf, spans, viterbi
from shared.serving.tasks.encoding import Encoder
from shared.serving.tasks.text_embedding import TextEmbedding
from tests.shared.serving.bundles import IDS, WORDS, tokenizer

ENCODER = Encoder(tokenizer(), max_length=64)
UNK, CLS, SEP = IDS["[UNK]"], IDS["[CLS]"], IDS["[SEP]"]


def test_every_code_point_keeps_its_place():
    text = "王 \t明\u200d😀\ud83dab\u3000。"
    pieces = ENCODER.characters(text, most=100)
    encoded = ENCODER.framed(pieces.ids)
    assert (encoded.ids[0], encoded.ids[-1]) == (CLS, SEP)
    assert len(pieces.places) == len(text)
    labelled = [WORDS[pieces.ids[place]] for place in pieces.places]
    assert labelled == ["王", "[UNK]", "[UNK]", "明", "[UNK]", "[UNK]", "[UNK]", "a", "b", "[UNK]", "。"]


def brute_force(emissions: np.ndarray, crf: Crf) -> float:
    from itertools import pairwise, product

    best = -np.inf
    for tags in product(range(emissions.shape[1]), repeat=len(emissions)):
        score = crf.start[tags[0]] + crf.end[tags[-1]] + sum(emissions[i, tag] for i, tag in enumerate(tags))
        best = max(best, score + sum(crf.transitions[a, b] for a, b in pairwise(tags)))
    return best


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=4), st.integers(0, 2**32 - 1))
def test_viterbi_finds_the_best_path_of_every_row(lengths, seed):
    draw = np.random.default_rng(seed)
    k = 3
    crf = Crf(draw.normal(size=k), draw.normal(size=(k, k)), draw.normal(size=k))
    emissions = draw.normal(size=(len(lengths), max(lengths), k))
    for row, (tags, length) in enumerate(zip(viterbi(emissions, lengths, crf), lengths, strict=True)):
        assert len(tags) == length
        if length:
            score = crf.start[tags[0]] + crf.end[tags[-1]] + sum(emissions[row, i, tag] for i, tag in enumerate(tags))
            score += sum(crf.transitions[a, b] for a, b in pairwise(tags))
            assert score == pytest.approx(brute_force(emissions[row, :length], crf))


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ("B-A I-A E-A O S-B", [Span("A", 0, 3), Span("B", 4, 5)]),
        ("B-A B-A E-A", [Span("A", 0, 1), Span("A", 1, 3)]),
        ("I-A E-A O", [Span("A", 0, 2)]),
        ("O E-A I-B I-A", [Span("A", 1, 2), Span("B", 2, 4)]),
        ("B-A O I-B", [Span("A", 0, 3)]),
        ("B-A I-A", [Span("A", 0, 2)]),
        ("S-A S-A", [Span("A", 0, 1), Span("A", 1, 2)]),
        ("O O", []),
    ],
)
def test_bioes(tags, found):
    assert spans(tags.split()) == found


def test_a_crf_for_other_tags_or_none_at_all_is_corrupt(tmp_path):
    np.savez(
        tmp_path / "crf.npz", start_transitions=np.zeros(2), transitions=np.zeros((2, 2)), end_transitions=np.zeros(2)
    )
    assert read_crf(tmp_path / "crf.npz", 2).start.shape == (2,)
    with pytest.raises(Corrupt, match="3 tags"):
        read_crf(tmp_path / "crf.npz", 3)
    (tmp_path / "crf.npz").write_bytes(b"junk")
    with pytest.raises(Corrupt):
        read_crf(tmp_path / "crf.npz", 2)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_pooling_ignores_padding(pooling):
    task = TextEmbedding(ENCODER, Processing(pooling=pooling, normalize=True))
    prepared = [task.prepare("好", {}), task.prepare("好坏王明", {})]
    states = np.random.default_rng(0).normal(size=(2, 6, 4)).astype(np.float32)
    results = task.finish(prepared, {"states": states})
    row = states[0, 0] if pooling == "cls" else states[0, :3].mean(axis=0)
    np.testing.assert_allclose(results[0].embedding, row / np.linalg.norm(row), rtol=1e-5)
    with pytest.raises(Corrupt):
        TextEmbedding(ENCODER, Processing(pooling="max"))


def test_over_long_texts_are_cut_between_pieces_and_say_so():
    short = Encoder(tokenizer(), max_length=5)
    with pytest.raises(Refused, match="7 tokens, the limit is 5"):
        short.text("王明去北京", truncate=False)
    whole = short.text("王明去北京", truncate=True)
    assert (whole.ids[0], whole.ids[-1], len(whole.ids)) == (CLS, SEP, 5)


def test_megabytes_are_refused_or_cut_without_being_tokenized():
    encoder = Encoder(tokenizer(), max_length=5)
    huge = "王" * 5_000_000
    with pytest.raises(Refused, match="the limit is 5 tokens"):
        encoder.text(huge, truncate=False)
    for text in (huge, "王" + " " * 5_000_000):
        cut = encoder.text(text, truncate=True)
        assert cut.truncated
        assert len(cut.ids) <= 5
