import numpy as np
import onnx
import onnxruntime
from hypothesis import given
from hypothesis import strategies as st

from bench import encoders
from bench.encoder_graph import graph_of
from bench.encoder_weights import Shape, logits, weights

TINY = Shape("tiny", layers=2, hidden=24, heads=3, inner=40, vocabulary=60, positions=32)


def test_the_graph_computes_what_the_reference_does():
    known = weights(TINY)
    model = graph_of(TINY, known)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    given_rows = encoders.feeds([[2, 7, 59, 31, 3], [2, 9, 3]])
    (found,) = session.run(["logits"], given_rows)
    wanted = logits(TINY, known, given_rows["input_ids"], given_rows["attention_mask"])
    assert found.shape == (2, 2)
    assert np.abs(found - wanted).max() < 1e-5
    # What is padded is not looked at.
    (alone,) = session.run(["logits"], encoders.feeds([[2, 9, 3]]))
    assert np.abs(found[1] - alone[0]).max() < 1e-5


def test_weights_are_the_same_each_time_and_answers_depend_on_the_text():
    first, again = weights(TINY), weights(TINY)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    one, other = ([[2, token, 3]] for token in (7, 8))
    mask = np.ones((1, 3), np.int64)
    assert not np.allclose(logits(TINY, first, np.array(one), mask), logits(TINY, first, np.array(other), mask))


@given(st.integers(3, 512), st.integers(0, 5))
def test_a_text_has_the_tokens_asked_for(tokens, seed):
    (text,) = encoders.texts(1, tokens=tokens, seed=seed)
    ids = encoders.ids(text)
    assert len(ids) == tokens
    assert ids[0] == encoders.CLS
    assert ids[-1] == encoders.SEP
    assert len(encoders.SPECIAL) <= min(ids[1:-1])
    assert max(ids) < 21128
    assert encoders.texts(1, tokens=tokens, seed=seed) == [text]
