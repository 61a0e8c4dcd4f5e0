"""Entities of short and long texts, through real programs whose answers are a known function of the ids."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from shared.bundle.manifest import TaskKind
from shared.protocol.errors import Corrupt, Refused
from shared.serving.answer import Entities
from shared.serving.sessions.onnx import OnnxSession
from shared.serving.tasks.crf import read_crf
from shared.serving.tasks.encoding import Encoder, encoder_for
from shared.serving.tasks.token_classification import TokenClassification
from shared.serving.tasks.windows import MOST
from tests.shared.serving.bundles import IDS, TAGS, bundle, crf_file, save, tag_table, tokenizer

REACH = 2
"""How many neighbours on each side an emission of `neighbours` depends on."""
HARD = {
    "👨‍👩‍👧 王明": ["王明"],
    "e\u0301王\u0301明\u0302": ["王\u0301明"],
    "Ａ王明１２３。　北京": ["王明", "北京"],
    "a王明 ab abb北京baa。": ["王明", "北京"],
    "\ud83d王明\udc00": ["王明"],
    "가나王明": ["王明"],
    "İß①ﬁ王明\ufeff\u200b\x00": ["王明"],
    "[SEP]王明[CLS][MASK]北京[UNK]": ["王明", "北京"],
    " \t\n　": [],
    "\u0301\u0301": [],
}
"""Texts, and what is found in them."""
hard = st.text(
    st.one_of(
        st.sampled_from("王明北京去好坏ab。，[]SEP \t\u3000\u200d\ufe0f\u0301👨😀Ａ１éé가İß①ﬁ\x00\ufeff"),
        st.characters(),
        st.characters(categories=["Cs"]),
    ),
    max_size=120,
)


def neighbours(path: Path) -> Path:
    """Emissions of a piece: weighted sum of a random table's rows for it and `REACH` pieces on either side."""
    table = np.random.default_rng(5).normal(size=tag_table().shape)
    kinds = table.shape[1]
    weights = np.random.default_rng(6).normal(size=2 * REACH + 1)
    weights[REACH] = 2.0
    kernel = np.zeros((kinds, kinds, 2 * REACH + 1))
    kernel[range(kinds), range(kinds)] = weights
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("Cast", ["attention_mask"], ["m"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["m", "two"], ["m3"]),
        helper.make_node("Mul", ["rows", "m3"], ["real"]),
        helper.make_node("Transpose", ["real"], ["channels"], perm=[0, 2, 1]),
        helper.make_node("Conv", ["channels", "kernel"], ["mixed"], pads=[REACH, REACH]),
        helper.make_node("Transpose", ["mixed"], ["emissions"], perm=[0, 2, 1]),
    ]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "seq"])
        for name in ("input_ids", "attention_mask")
    ]
    constants = {"table": table.astype(np.float32), "kernel": kernel.astype(np.float32), "two": np.array([2])}
    save(
        helper.make_graph(
            nodes,
            "neighbours",
            inputs,
            [helper.make_tensor_value_info("emissions", TensorProto.FLOAT, ["batch", "seq", kinds])],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        ),
        path,
    )
    onnx.checker.check_model(str(path))
    return path


class Model:
    """A program and what is around it; `max_length` tokens at once."""

    def __init__(self, program: Path, *, max_length: int, char_level: bool = True, crf: bool = True) -> None:
        crf_file(program.parent / "crf.npz")
        chain = read_crf(program.parent / "crf.npz", len(TAGS)) if crf else None
        words = tokenizer()
        words.encode_special_tokens = True
        self.encoder = Encoder(words, max_length=max_length)
        self.task = TokenClassification(self.encoder, TAGS, chain, char_level=char_level, overlap=8)
        self.session = OnnxSession(program, threads=1)
        self.session.load()
        self.runs: list[tuple[int, int]] = []

    def __call__(self, *texts: str, truncate: bool = False) -> list[Entities]:
        batch = [self.task.prepare(text, {"truncate": truncate}) for text in texts]
        *before, results = self.task.steps(self._run, batch)
        assert all(step == [None] * len(texts) for step in before)
        return list(results)

    def _run(self, feeds):
        self.runs.append(feeds["input_ids"].shape)
        return self.session.run({name: feeds[name] for name in ("input_ids", "attention_mask")})


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return neighbours(tmp_path_factory.mktemp("programs") / "model.onnx")


@pytest.fixture(scope="module", params=["crf", "best tags"])
def crf(request):
    return request.param == "crf"


@pytest.fixture(scope="module", params=["characters", "words"])
def pair(request, program, crf):
    """The same model with room for every text, and with windows of 40 tokens."""
    char_level = request.param == "characters"
    return tuple(Model(program, max_length=limit, char_level=char_level, crf=crf) for limit in (5000, 40))


def same(one: Entities, two: Entities) -> None:
    assert [entity[:4] for entity in map(fields, one.entities)] == [entity[:4] for entity in map(fields, two.entities)]
    np.testing.assert_allclose(
        [entity.score for entity in one.entities], [entity.score for entity in two.entities], atol=1e-5
    )


def fields(entity):
    return entity.type, entity.start, entity.end, entity.text, entity.score


def well_placed(text: str, result: Entities) -> None:
    reached = 0
    for entity in result.entities:
        assert 0 <= reached <= entity.start < entity.end <= len(text)
        assert text[entity.start : entity.end] == entity.text
        assert 0 < entity.score <= 1
        reached = entity.end


@settings(deadline=None)
@given(hard.filter(bool), st.integers(1, 4))
@example("王明去北京。" * 40, 1)
@example("".join(HARD), 3)
def test_entities_are_where_they_say_and_windows_change_none(pair, text, times):
    whole, windowed = pair
    text = text * times
    (one,), (two,) = whole(text), windowed(text)
    well_placed(text, one)
    well_placed(text, two)
    # The program reaches no further than windows overlap: reading in windows must not show at all.
    same(one, two)


@settings(deadline=None, max_examples=40)
@given(st.lists(hard.filter(bool), min_size=2, max_size=5))
def test_batch_mates_change_nothing(pair, texts):
    _, windowed = pair
    for text, together in zip(texts, windowed(*texts), strict=True):
        same(windowed(text)[0], together)


@pytest.mark.parametrize("text", HARD)
def test_hard_texts(tmp_path, text):
    path = tmp_path / "model.onnx"
    bundle(tmp_path, "ner", TaskKind.TOKEN_CLASSIFICATION)
    for char_level in (True, False):
        (result,) = Model(path, max_length=64, char_level=char_level)(text)
        well_placed(text, result)
        # Nothing of the text is dropped, what looks like a special token included.
        assert [entity.text for entity in result.entities] == HARD[text]


def test_an_entity_across_every_possible_cut_is_found_whole(tmp_path):
    bundle(tmp_path, "ner", TaskKind.TOKEN_CLASSIFICATION)
    model = Model(tmp_path / "model.onnx", max_length=20)
    for before in range(60):
        text = "好" * before + "王明" + "坏" * 40 + "北京"
        (result,) = model(text)
        assert [(entity.start, entity.text) for entity in result.entities] == [
            (before, "王明"),
            (before + 42, "北京"),
        ]


def test_a_text_of_too_many_windows_is_refused_or_cut_and_says_so(tmp_path):
    bundle(tmp_path, "ner", TaskKind.TOKEN_CLASSIFICATION)
    for char_level in (True, False):
        model = Model(tmp_path / "model.onnx", max_length=20, char_level=char_level)
        text = "王明去" * 1000
        with pytest.raises(Refused, match=f"the limit is {MOST} windows of 20 tokens") as refused:
            model(text)
        assert refused.value.field == "text"
        (cut,) = model(text, truncate=True)
        assert cut.truncated
        assert len(model.runs) == 1
        assert model.runs[0] == (MOST, 20)
        read = cut.entities[-1].end + 1
        assert MOST * 12 < read < MOST * 18
        # All that was read is answered for.
        assert [entity.start for entity in cut.entities] == list(range(0, read - 1, 3))


def test_megabytes_are_refused_or_cut_without_being_tokenized(tmp_path):
    bundle(tmp_path, "ner", TaskKind.TOKEN_CLASSIFICATION)
    for char_level in (True, False):
        model = Model(tmp_path / "model.onnx", max_length=20, char_level=char_level)
        for text in ("王" * 5_000_000, "王" + " " * 5_000_000):
            with pytest.raises(Refused, match="5000"):
                model(text)
            assert model(text, truncate=True)[0].truncated


def test_a_long_text_takes_several_runs_and_may_be_abandoned_between_them(program):
    model = Model(program, max_length=512)
    prepared = model.task.prepare("王明去北京。" * 1000, {})
    assert (prepared.tokens, prepared.rows) == (512, 13)
    steps = model.task.steps(model._run, [prepared])
    assert next(steps) == [None]
    assert model.runs == [(8, 512)]
    steps.close()
    assert len(model.runs) == 1
    (entities,) = model("王明去北京。" * 1000)
    assert len(entities.entities) > 100


def test_the_estimate_is_what_a_chinese_text_costs(program):
    model = Model(program, max_length=40)
    for length in (1, 37, 38, 39, 100, 1000):
        prepared = model.task.prepare("王" * length, {"truncate": True})
        assert model.task.estimate("王" * length, {}) == prepared.rows * prepared.tokens


def test_a_program_of_another_shape_is_corrupt(program):
    model = Model(program, max_length=40)
    batch = [model.task.prepare("王", {})]
    with pytest.raises(Corrupt, match="emissions"):
        next(model.task.steps(lambda feeds: {"emissions": np.zeros((1, 3, 2))}, batch))


def test_composed_text_keeps_the_offsets_of_what_came(tmp_path):
    """A cased vocabulary knows composed letters only: the tokenizer composes, and offsets stay those of the text."""
    manifest = bundle(tmp_path, "ner", TaskKind.TOKEN_CLASSIFICATION, nfc=True, char_level=False)
    made = tokenizer()
    made.add_tokens(["é", "Å"])
    made.save(str(tmp_path / "tokenizer.json"))
    encoder = encoder_for(manifest, tmp_path)
    pieces = encoder.words("ae\u0301 王", most=9)
    assert pieces.offsets[-1] == (4, 5)
    assert IDS["王"] in pieces.ids
    plain = encoder_for(bundle(tmp_path / "b", "ner", TaskKind.TOKEN_CLASSIFICATION), tmp_path / "b")
    assert encoder.characters("\u212b", most=9).ids != plain.characters("\u212b", most=9).ids
