"""The task over a real graph with a cache, and over scripted scores."""

from collections.abc import Generator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.bundle.manifest import Generation, Manifest, Processing, TaskKind
from shared.protocol.errors import Corrupt, Refusal, Refused
from shared.serving.lanes.sinks import joined
from shared.serving.sessions.onnx import OnnxSession
from shared.serving.tasks.choose import task_for
from shared.serving.tasks.text_generation import TextGeneration
from tests.shared.serving.decoder import (
    CONTEXT,
    END,
    GENERATION,
    IDS,
    LETTERS,
    VOCABULARY,
    byte_level,
    decoder_bundle,
    letters,
    weights,
    written,
)

PROMPTS = ["你好", "在这里说话。我们", "a", "天地人 abc 😀世界"]
WEIGHTS = weights()


class Written:
    """The real decoder, asked as a worker asks it."""

    def __init__(self, folder):
        manifest = decoder_bundle(folder)
        self.task = task_for(manifest, folder)
        self.session = OnnxSession(folder / "model.onnx", threads=1)
        self.session.load()
        self.runs = []

    def run(self, feeds):
        self.runs.append({name: array.shape for name, array in feeds.items()})
        return self.session.run(feeds)

    def __call__(self, *prompts, **parameters):
        batch = [self.task.prepare(prompt, parameters) for prompt in prompts]
        return texts_of(self.task.steps(self.run, batch), len(batch))


def texts_of(steps, count):
    whole = [None] * count
    for step in steps:
        assert len(step) == count
        for i, piece in enumerate(step):
            if piece is not None:
                assert whole[i] is None or whole[i].finish is None
                whole[i] = joined(whole[i], piece) if whole[i] is not None else piece
    return whole


@pytest.fixture(scope="module")
def write(tmp_path_factory):
    return Written(tmp_path_factory.mktemp("decoder"))


def test_a_text_is_the_one_that_is_computed_anew_for_every_token(write):
    for prompt in PROMPTS:
        (text,) = write(prompt)
        assert text.text == written(WEIGHTS, prompt, 64)
        assert (text.tokens, text.prompt_tokens, text.finish, text.truncated) == (64, len(prompt), "length", False)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.text(LETTERS, min_size=1, max_size=20), min_size=1, max_size=6), st.integers(1, 40))
def test_a_text_is_the_same_alone_and_in_any_batch(write, prompts, count):
    together = write(*prompts, max_tokens=count)
    assert [text.text for text in together] == [written(WEIGHTS, prompt, count) for prompt in prompts]


def test_a_row_that_has_ended_leaves_the_batch_with_its_padding(write):
    write.runs.clear()
    prompts = [write.task.prepare("在这里说话。我们", {"max_tokens": 2}), write.task.prepare("你", {"max_tokens": 5})]
    first, second = texts_of(write.task.steps(write.run, prompts), 2)
    assert (len(first.text), len(second.text)) == (2, 5)
    assert second.text == written(WEIGHTS, "你", 5)
    assert [runs["input_ids"] for runs in write.runs] == [(2, 8), (2, 1), (1, 1), (1, 1), (1, 1)]
    assert [runs["attention_mask"][1] for runs in write.runs] == [8, 9, 3, 4, 5]


def test_a_row_nobody_wants_any_more_leaves_the_batch(write):
    write.runs.clear()
    batch = [write.task.prepare(prompt, {"max_tokens": 6}) for prompt in PROMPTS]
    steps = write.task.steps(write.run, batch)
    assert isinstance(steps, Generator)
    whole = [next(steps), steps.send({0, 3}), *steps]
    assert [runs["input_ids"][0] for runs in write.runs] == [4, 2, 2, 2, 2, 2]
    assert all(step[0] is None and step[3] is None for step in whole[1:])
    assert "".join(step[1].text for step in whole) == written(WEIGHTS, PROMPTS[1], 6)


def test_the_same_seed_gives_the_same_text_whatever_stands_beside_it(write):
    drawn = {"temperature": 1.0, "top_p": 0.9, "seed": 3, "max_tokens": 30}
    (alone,), together = write(PROMPTS[0], **drawn), write(*reversed(PROMPTS), **drawn)
    assert alone.text == together[-1].text
    assert write(PROMPTS[0], **drawn | {"seed": 4})[0].text != alone.text
    assert len({write(PROMPTS[0], temperature=1.0, max_tokens=30)[0].text for _ in range(3)}) > 1


def test_a_stop_text_ends_the_answer_and_is_not_in_it(write):
    text = written(WEIGHTS, "你好", 64)
    for stop in (text[10], text[10:13], text[0]):
        (cut,) = write("你好", stop=["never here", stop])
        assert (cut.text, cut.finish) == (text[: text.index(stop)], "stop")
    (whole,) = write("你好", stop=text[-1] + "x", max_tokens=64)
    assert (whole.text, whole.finish) == (text, "length")


def test_a_prompt_that_is_too_long_is_refused_or_cut_from_the_left(write):
    prompt = "你好世界天地人" * 20
    for asked, kept in (({}, CONTEXT - CONTEXT // 2), ({"max_tokens": 30}, CONTEXT - 30)):
        with pytest.raises(Refused, match=f"140 tokens, the limit is {CONTEXT - 1} tokens") as caught:
            write(prompt, **asked)
        assert (caught.value.kind, caught.value.field) == (Refusal.UNPROCESSABLE, "text")
        (text,) = write(prompt, truncate=True, **asked)
        assert (text.prompt_tokens, text.truncated) == (kept, True)
        assert text.text == written(WEIGHTS, prompt[-kept:], asked.get("max_tokens", CONTEXT // 2))
    (text,) = write("你" * 90, truncate=True)
    assert (text.tokens, text.truncated, text.finish) == (6, False, "length")
    megabytes = "你好" * 2_000_000
    with pytest.raises(Refused, match="4000000 characters"):
        write(megabytes)
    assert write(megabytes, truncate=True)[0].truncated


def test_what_the_context_has_no_room_for_is_not_promised(write):
    for prompt, asked, most in (("你", CONTEXT, CONTEXT - 1), ("你好", CONTEXT - 1, CONTEXT - 2)):
        with pytest.raises(Refused) as caught:
            write(prompt, max_tokens=asked)
        assert (caught.value.field, caught.value.allowed) == ("parameters.max_tokens", f"1 to {most}")
    (text,) = write("你好", max_tokens=CONTEXT - 2)
    assert text.text == written(WEIGHTS, "你好", CONTEXT - 2)
    assert (text.tokens, text.finish) == (CONTEXT - 2, "length")


def test_estimates_count_what_may_be_written(write):
    prepared = write.task.prepare("你好", {"max_tokens": 5})
    assert (prepared.tokens, prepared.rows) == (7, 1)
    assert write.task.estimate("你好", {"max_tokens": 5}) == 7
    assert write.task.estimate("你好", {}) == write.task.prepare("你好", {}).tokens == 66
    assert write.task.estimate("你" * 1000, {"max_tokens": "many"}) == CONTEXT
    assert write.task.estimate({"x": np.zeros(1)}, {}) == CONTEXT


@pytest.mark.parametrize("prompt", ["", 3, {"x": np.zeros(1)}])
def test_what_is_no_prompt_is_refused(write, prompt):
    with pytest.raises(Refused) as caught:
        write.task.prepare(prompt, {})
    assert (caught.value.field, caught.value.kind) == ("text", Refusal.UNPROCESSABLE)
    with pytest.raises(Refused, match="no tokens"):
        write.task.prepare("\ud83d", {})


def scripted(tokenizer, generation, *rows):
    """Texts of a program that scores the tokens of `rows` highest, one row per prompt, whatever it reads."""
    task = TextGeneration(tokenizer, Processing(generation=generation))
    fed = []

    def run(feeds):
        fed.append(feeds)
        total = feeds["attention_mask"].shape[1]
        logits = np.zeros((len(rows), 1, tokenizer.get_vocab_size()), np.float32)
        for row, tokens in enumerate(rows):
            logits[row, 0, tokens[len(fed) - 1]] = 1.0
        present = np.zeros((len(rows), generation.heads, total, generation.head_size), np.float32)
        return {"logits": logits} | {f"present.{i}.{kind}": present for i in range(2) for kind in ("key", "value")}

    return task, run, fed


TWO_LAYERS = Generation(layers=2, heads=3, head_size=2, context=40, ends=(0,), starts=(5, 6))


def test_the_program_is_fed_what_every_decoder_is_fed():
    task, run, fed = scripted(letters(), TWO_LAYERS, [3, 4], [4, 3])
    batch = [task.prepare("你好世", {"max_tokens": 2}), task.prepare("你", {"max_tokens": 2})]
    one, two = texts_of(task.steps(run, batch), 2)
    assert (one.text, two.text, two.prompt_tokens) == (VOCABULARY[3] + VOCABULARY[4], VOCABULARY[4] + VOCABULARY[3], 3)
    first, second = fed
    ids = [[5, 6, IDS["你"], IDS["好"], IDS["世"]], [0, 0, 5, 6, IDS["你"]]]
    assert first["input_ids"].tolist() == ids
    assert first["attention_mask"].tolist() == [[1] * 5, [0, 0, 1, 1, 1]]
    assert first["position_ids"].tolist() == [[0, 1, 2, 3, 4], [0, 0, 0, 1, 2]]
    assert first["past_key_values.1.value"].shape == (2, 3, 0, 2)
    assert second["input_ids"].tolist() == [[3], [4]]
    assert second["attention_mask"].tolist() == [[1] * 6, [0, 0, 1, 1, 1, 1]]
    assert second["position_ids"].tolist() == [[5], [3]]
    assert {array.dtype for name, array in second.items() if name.startswith("past")} == {np.dtype(np.float32)}
    assert {second[name].dtype for name in ("input_ids", "attention_mask", "position_ids")} == {np.dtype(np.int64)}
    assert second["past_key_values.0.key"].shape == (2, 3, 5, 2)


def test_the_end_token_ends_the_text_and_is_not_in_it():
    task, run, _ = scripted(letters(), TWO_LAYERS, [3, IDS[END]])
    (text,) = texts_of(task.steps(run, [task.prepare("你", {})]), 1)
    assert (text.text, text.tokens, text.finish) == (VOCABULARY[3], 1, "stop")


def test_no_piece_holds_half_a_character_and_a_stop_text_may_span_tokens():
    tokenizer = byte_level()
    ids = tokenizer.encode("好😀。\n天").ids
    generation = Generation(layers=2, heads=1, head_size=2, context=99)
    for stop, expected, finish in ((None, "好😀。\n天", "length"), ("。\n天", "好😀", "stop"), ("😀", "好", "stop")):
        task, run, _ = scripted(tokenizer, generation, ids)
        batch = [task.prepare("x", {"max_tokens": len(ids), "stop": stop})]
        pieces = [piece for (piece,) in task.steps(run, batch) if piece is not None]
        assert "".join(piece.text for piece in pieces) == expected
        assert pieces[-1].finish == finish
        assert all(piece.finish is None for piece in pieces[:-1])
        assert not any("\ufffd" in piece.text for piece in pieces)
    # A text that is cut in the middle of a character says so; it is the last piece.
    task, run, _ = scripted(tokenizer, generation, ids)
    pieces = [piece for (piece,) in task.steps(run, [task.prepare("x", {"max_tokens": 4})]) if piece is not None]
    assert [piece.text for piece in pieces] == ["好", "\ufffd"]
    assert [piece.tokens for piece in pieces] == [2, 2]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"logits": np.zeros((1, 3), np.float32)}, "logits have shape"),
        ({"logits": np.zeros((2, 1, 3), np.float32)}, "logits have shape"),
        ({"logits": np.full((1, 1, 3), np.nan, np.float32)}, "not numbers"),
        ({"present.0.key": np.zeros((1, 3, 9, 2), np.float32)}, "cache has shape"),
        ({"logits": None}, "no output 'logits'"),
        ({"present.1.value": None}, "no output 'present.1.value'"),
    ],
)
def test_a_program_that_is_no_decoder_is_corrupt(wrong, message):
    task, run, _ = scripted(letters(), TWO_LAYERS, [3])

    def spoilt(feeds):
        return {name: array for name, array in (run(feeds) | wrong).items() if array is not None}

    with pytest.raises(Corrupt, match=message):
        list(task.steps(spoilt, [task.prepare("你", {})]))


def test_a_bundle_that_does_not_fit_is_corrupt(tmp_path):
    with pytest.raises(Corrupt, match=r"processing\.generation"):
        TextGeneration(letters(), Processing())
    with pytest.raises(Corrupt, match="no room"):
        TextGeneration(letters(), Processing(generation=Generation(layers=1, heads=1, head_size=1, context=1)))
    bare = Manifest(name="m", version="1.0.0", task=TaskKind.TEXT_GENERATION, variants=(), files=())
    with pytest.raises(Corrupt, match="without a tokenizer"):
        task_for(bare, tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    broken = Processing(tokenizer="tokenizer.json", generation=GENERATION)
    with pytest.raises(Corrupt, match="cannot be read"):
        task_for(
            Manifest(
                name="m",
                version="1.0.0",
                task=TaskKind.TEXT_GENERATION,
                variants=(),
                files=(),
                processing=broken,
            ),
            tmp_path,
        )
