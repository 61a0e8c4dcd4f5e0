"""SiameseUIE: what our bundle's program and task find is what ModelScope's own pipeline finds, on a folder in the hub's form."""

import json
import random
import warnings
from itertools import product

import msgspec
import numpy as np
import pytest
import torch
from modelscope.pipelines import pipeline
from tokenizers import Tokenizer

from cloud_core.importer.architectures.siamese_uie import HINT_LENGTH, open_siamese_uie
from cloud_core.importer.export import export
from shared.protocol.errors import Refused
from shared.serving.answer import Relations
from shared.serving.sessions.onnx import OnnxSession
from shared.serving.tasks.encoding import Encoder
from shared.serving.tasks.relation_extraction import RelationExtraction
from shared.serving.versions.golden import difference
from tests.importing.siamese import siamese_uie

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The `device` argument is deprecated:FutureWarning"),
]

FLAT = {"人物": None, "地理位置": None, "组织机构": None}
NESTED = {"人物": {"毕业院校": None, "职务": None}, "地点": None}
DEEP = {"人物": {"职务": {"时间": None}, "毕业院校": None}}
HARD = [
    "1944年毕业于北大的名古屋铁道会长谷口清太郎等人在日本积极筹资，共筹款2.7亿日元，参加捐款的日本企业有69家。",
    "👨‍👩‍👧 王明😀去北京🇨🇳",
    "e\u0301cole Ａｌｉｂａｂａ １２３。　上海",
    "Hello world, 我在 Beijing 的 Google 工作 [SEP] ok",
    "가나다 한국 İß①ﬁ κόσμος",
    "\u0000\ufffd\u200b王\ufeff明",
    " ",
    "王",
    "a" * 120,
]
SUBJECTS, PLACES = ["王明", "李 华", "John Smith", "谷口清太郎"], ["北京", "New York", "东京都", "ＡＢＣ大学"]
VERBS, TAILS = ["毕业于", "，在", " works at ", "去了"], ["。", "！😀", "，2024年5月。", "...", ""]


def sentences() -> list[str]:
    """The hard ones, and more than 200 put together."""
    drawn = random.Random(5)
    made = ["".join(parts) for parts in product(SUBJECTS, VERBS, PLACES, TAILS)]
    return [*HARD, *drawn.sample(made, 210)]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """ModelScope's own pipeline over the folder, and the folder."""
    # Tiny runs by the thousand: more threads would only wait for each other.
    torch.set_num_threads(1)
    folder = siamese_uie(tmp_path_factory.mktemp("siamese") / "model")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pipeline("siamese-uie", model=str(folder)), folder


@pytest.fixture(scope="module")
def opened(source):
    return open_siamese_uie(source[1], json.dumps(NESTED, ensure_ascii=False))


class Bundle:
    """The exported program and the task over it, as an edge has them."""

    def __init__(self, opened, folder):
        export(opened, folder / "model.onnx")
        self.encoder = Encoder(Tokenizer.from_str(opened.files["tokenizer.json"].decode()), max_length=384)
        self.task = RelationExtraction(self.encoder, opened.processing.extraction)
        self.session = OnnxSession(folder / "model.onnx", threads=1)
        self.session.load()
        self.runs = 0

    def __call__(self, *texts: str, schema=None) -> list[Relations]:
        batch = [self.task.prepare(text, {} if schema is None else {"schema": schema}) for text in texts]
        results: list[Relations | None] = [None] * len(batch)
        for step in self.task.steps(self.run, batch):
            results = [new or old for new, old in zip(step, results, strict=True)]
        return results

    def run(self, feeds):
        self.runs += 1
        return self.session.run(feeds)


@pytest.fixture(scope="module")
def bundle(opened, tmp_path_factory):
    return Bundle(opened, tmp_path_factory.mktemp("bundle"))


def asked(source, text: str, schema) -> list[list[tuple[str, int, int]]] | None:
    """The pipeline's paths as type, start and end of each hop, without what is no span, and each once; None where it asks nonsense."""
    pipe, _ = source
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        paths = pipe(text, schema=schema)["output"]
    found = []
    for path in paths:
        hops = [(hop["type"], *hop["offset"]) for hop in path]
        assert all(hop["span"] == text[hop["offset"][0] : hop["offset"][1]] for hop in path)
        hint = "".join(f"{hop['type']}: {hop['span']}, " for hop in path[:-1]) + f"{path[-1]['type']}: "
        if all(start < end for _, start, end in hops):
            if len(pipe.preprocessor([hint])[0].ids) > HINT_LENGTH:
                return None
            if hops not in found:
                found.append(hops)
    return found


def paths(result: Relations) -> list[list[tuple[str, int, int]]]:
    found = []
    for relation in result.relations:
        hops = [(hop.type, hop.start, hop.end) for hop in relation.within]
        if relation.subject is not None:
            hops.append((relation.subject_type, relation.subject_start, relation.subject_end))
        found.append([*hops, (relation.type, relation.object_start, relation.object_end)])
    return found


def test_over_two_hundred_sentences_the_same_spans_in_the_same_order(source, bundle):
    total = nested = 0
    for text in sentences():
        for schema in (FLAT, NESTED):
            expected = asked(source, text, schema)
            (result,) = bundle(text, schema=schema)
            assert not result.truncated
            assert paths(result) == expected, text
            total += len(expected)
            nested += sum(len(path) > 1 for path in expected)
            for relation in result.relations:
                assert relation.object == text[relation.object_start : relation.object_end]
    # A comparison of nothing with nothing would prove nothing.
    assert total > 500
    assert nested > 100


def test_three_levels(source, bundle):
    deep = 0
    for text in sentences()[:60]:
        (result,) = bundle(text, schema=json.dumps(DEEP))
        assert paths(result) == asked(source, text, DEEP)
        deep += sum(bool(relation.within) for relation in result.relations)
    assert deep > 20


@pytest.mark.parametrize("length", [381, 382, 383, 384, 385, 734, 735, 736, 737, 1500])
def test_windows_and_their_means(source, bundle, length):
    """At and around the sizes where a window more begins; a token is a character, [CLS] and [SEP] come to it."""
    text = ("".join(sentences()[9:]).replace(" ", "") * 2)[:length]
    text = "".join(character if "\u4e00" <= character <= "\u9fff" else "的" for character in text)
    expected = asked(source, text, FLAT)
    (result,) = bundle(text, schema=FLAT)
    assert paths(result) == expected
    assert expected


def test_probabilities(source, bundle, monkeypatch):
    """Every token's, not only those of what was found."""
    pipe, _ = source
    texts = [*sentences()[:12], "中文文本很长，" * 90]
    own, theirs, ours = pipe.get_entities, [], []
    monkeypatch.setattr(
        pipe, "get_entities", lambda text, offsets, *sides: theirs.append(sides) or own(text, offsets, *sides)
    )
    mine = bundle.task._hops
    monkeypatch.setattr(
        bundle.task, "_hops", lambda kind, passage, logits: ours.append(logits) or mine(kind, passage, logits)
    )
    for text in texts:
        asked(source, text, FLAT)
        bundle(text, schema=FLAT)
    assert len(ours) == len(theirs) == 3 * len(texts)
    spread = []
    for (heads, tails), logits in zip(theirs, ours, strict=True):
        for expected, found in ((heads, logits.heads), (tails, logits.tails)):
            np.testing.assert_allclose(probability(found), probability(np.array(expected)), atol=1e-4)
            spread.extend(probability(np.array(expected)))
    assert np.std(spread) > 0.2


def probability(logits):
    return 1 / (1 + np.exp(-logits))


def test_the_reference_gives_the_golden_set_what_the_bundle_answers(opened, bundle):
    texts = sentences()[:40]
    compared = 0
    for text, expect in zip(texts, opened.reference(texts), strict=True):
        (result,) = bundle(text)
        assert expect is not None
        assert difference(expect, result, 1e-4) is None
        compared += len(expect["relations"])
        if expect["relations"]:
            first = {**expect["relations"][0], "score": 0.01 + expect["relations"][0]["score"]}
            assert "score" in difference({"relations": [first, *expect["relations"][1:]]}, result, 1e-4)
            assert "instead of" in difference({"relations": expect["relations"][1:]}, result, 1e-4)
    assert compared > 50


def test_alone_and_in_a_batch(bundle):
    texts = [*HARD, "中文文本很长，王明去北京。" * 60]
    before = bundle.runs
    together = bundle(*texts)
    in_batch = bundle.runs - before
    alone = [bundle(text)[0] for text in texts]
    assert bundle.runs - before - in_batch > in_batch
    for one, two in zip(alone, together, strict=True):
        assert paths(one) == paths(two)
        np.testing.assert_allclose(
            [relation.score for relation in one.relations], [relation.score for relation in two.relations], atol=1e-5
        )


def test_a_hint_too_long_keeps_what_it_asks_for(source, bundle):
    """The pipeline cuts the end of a hint, and so asks every type of a level the same: its answers are no reference there."""
    pipe, _ = source
    hint = "人物: " + "王" * 300 + ", 职务: "
    ids = bundle.task._hint(hint)
    assert len(ids) == HINT_LENGTH
    whole = pipe.preprocessor([hint])[0].ids
    assert list(ids) == [*whole[: HINT_LENGTH // 2], *whole[-HINT_LENGTH // 2 :]]


def test_schemas_and_sizes_that_cannot_be_are_refused_by_name(source, tmp_path):
    _, folder = source
    with pytest.raises(Refused) as refused:
        open_siamese_uie(folder, '{"人物": {}}')
    assert refused.value.field == "schema.人物"
    assert open_siamese_uie(folder, None).processing.extraction.schema is not None
    with pytest.raises(Refused) as refused:
        open_siamese_uie(siamese_uie(tmp_path / "short", positions=256), None)
    assert refused.value.field == "config.json.max_position_embeddings"
    with pytest.raises(Refused) as refused:
        open_siamese_uie(siamese_uie(tmp_path / "flat", layers=6), None)
    assert refused.value.field == "config.json.num_hidden_layers"
    wordless = siamese_uie(tmp_path / "wordless")
    (wordless / "vocab.txt").unlink()
    with pytest.raises(Refused, match="ModelScope cannot open the folder"):
        open_siamese_uie(wordless, None)


def test_what_goes_into_the_bundle(opened):
    assert opened.architecture == "siamese-uie"
    assert msgspec.json.decode(opened.processing.extraction.schema) == NESTED
    tokenizer = Tokenizer.from_str(opened.files["tokenizer.json"].decode())
    assert tokenizer.truncation is None
    assert tokenizer.padding is None
