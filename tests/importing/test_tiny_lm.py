"""The shipped tiny-lm: what the engine writes with it is what transformers' `generate()` writes, token by token."""

from functools import cache
from pathlib import Path

import msgspec
import pytest
import torch
from tokenizers import Tokenizer

from cloud_core.importer.architectures.causal_lm import generate_greedily, open_causal_lm
from cloud_core.models.shipped import shipped_models
from shared.bundle.manifest import MANIFEST_FILE, parse_manifest
from shared.protocol.errors import Refused
from tests.importing.decoders import Writer

pytestmark = pytest.mark.slow

SOURCE = Path(__file__).parents[2] / "examples" / "shipped_models" / "sources" / "tiny-lm"
TOKENS = 64
MOST_BYTES = 4_000_000
PROMPTS = (
    "今天",
    "今天天气",
    "明天上海有",
    "我",
    "我们",
    "我想买一台",
    "这家餐厅",
    "这本书的作者",
    "老师走进教室，",
    "从前有一只小",
    "从前，有一个勤劳的农夫，",
    "春天来了，",
    "通知：",
    "通知：明天下午三点",
    "一号水泵",
    "压力传感器读数",
    "问：一年有几个月？答：",
    "问：怎么退货？答：",
    "问：中国的首都是哪里？答：",
    "问：3加4等于几？答：",
    "问：火星上有水吗？答：",
    "问：",
    "答：",
    "你好",
    "你好，请问",
    "对不起，我",
    "火车晚点了两个小时，",
    "爸爸妈妈和我周末要去",
    "昨天的足球比赛",
    "科学家发现",
    "昨夜，一场大雪",
    "他把钥匙忘在家里了，只好",
    "小明的作业本",
    "北京",
    "桂林山水",
    "价格",
    "。",
    "，",
    "“",
    "《",
    "1",
    "2025年",
    "订单号20250317已经",
    "A",
    "hello",
    "iPhone 15 的屏幕碎了，",
    "Python和机器学习",
    "龘靐齉爩",
    "今天吃了🍜，味道😂",
    "Ｆｕｌｌ　ｗｉｄｔｈ 全角，café",
    "   ",
    "下午，我和同事们在会议室里讨论了一个多小时，最后决定把项目分成三个阶段：先做调查，了解用户需要什么；再设计产品，请几位老用户来试一试；",
    "她每天早上五点半起床，先给院子里的花浇水，再去菜市场买菜。回来以后做早饭，叫孩子起床，送他们上学。" * 3,
)


class Shipped:
    """The bundle, the source it was made of, and writers of its variants."""

    def __init__(self):
        self.folder = next(folder for folder in shipped_models() if folder.name == "tiny-lm")
        self.manifest = parse_manifest((self.folder / MANIFEST_FILE).read_bytes())
        self.opened = open_causal_lm(SOURCE)
        self.model = self.opened.traced.module.model
        self.tokenizer = Tokenizer.from_str(self.opened.files["tokenizer.json"].decode())

    @cache  # noqa: B019 - as long as the module's tests run
    def writer(self, variant, *, endless):
        """What writes with a variant; `endless`: no token ends a text."""
        processing = self.manifest.processing
        program = self.folder / self.manifest.variant(variant).files[0]
        return Writer(program, (self.folder / processing.tokenizer).read_bytes(), processing, endless=endless)

    @cache  # noqa: B019
    def ids(self, prompt, *, endless):
        """What `generate()` writes."""
        generation = self.manifest.processing.generation
        ids = [*generation.starts, *self.tokenizer.encode(prompt, add_special_tokens=False).ids]
        ends = () if endless else generation.ends
        return generate_greedily(self.model, ids, msgspec.structs.replace(generation, ends=ends), TOKENS)

    def text(self, prompt, *, endless):
        ids = self.ids(prompt, endless=endless)
        return self.tokenizer.decode([token for token in ids if token not in self.manifest.processing.generation.ends])


@pytest.fixture(scope="module")
def shipped():
    known = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Shipped()
    torch.set_num_threads(known)


def test_it_is_small_and_what_its_source_says(shipped):
    assert len(set(PROMPTS)) >= 50
    assert sum(file.size for file in shipped.manifest.files) <= MOST_BYTES
    assert {variant.name for variant in shipped.manifest.variants} == {"cpu-fp32"}
    assert all(variant.batch_invariant for variant in shipped.manifest.variants)
    assert shipped.manifest.processing.generation == shipped.opened.processing.generation
    assert (shipped.folder / "tokenizer.json").read_bytes() == shipped.opened.files["tokenizer.json"]


def test_64_greedy_tokens_are_those_of_generate(shipped):
    write = shipped.writer("cpu-fp32", endless=True)
    for prompt in PROMPTS:
        (text,) = write([prompt], max_tokens=TOKENS)
        assert (text.text, text.tokens) == (shipped.text(prompt, endless=True), TOKENS)


@pytest.mark.parametrize("rows", [7, len(PROMPTS)])
def test_64_greedy_tokens_of_a_batch_are_those_of_generate_alone(shipped, rows):
    write = shipped.writer("cpu-fp32", endless=True)
    texts = [text for start in range(0, len(PROMPTS), rows) for text in write(PROMPTS[start : start + rows])]
    assert [text.text for text in texts] == [shipped.text(prompt, endless=True) for prompt in PROMPTS]


def test_a_text_ends_where_generate_ends_it(shipped):
    texts = shipped.writer("cpu-fp32", endless=False)(PROMPTS)
    assert [text.text for text in texts] == [shipped.text(prompt, endless=False) for prompt in PROMPTS]
    # Most of what it has read are texts of a sentence or a few.
    assert sum(text.finish == "stop" for text in texts) >= len(PROMPTS) // 2


def test_what_does_not_fit_into_the_context_is_refused_with_the_limit(shipped):
    task, generation = shipped.writer("cpu-fp32", endless=False).task, shipped.manifest.processing.generation
    room = generation.context - len(generation.starts)
    assert task.prepare("今" * (room - 1), {}).data.room == 1
    with pytest.raises(Refused, match=f"the limit is {generation.context - 1} tokens"):
        task.prepare("今" * room, {})
    with pytest.raises(Refused) as caught:
        task.prepare("今天", {"max_tokens": room})
    assert caught.value.field == "parameters.max_tokens"
