"""Endless labelled review sentences from the phrase bank.

Each clause maker takes the wished polarity (0 bad, 1 good) and returns a clause that has it, often by turning words of
the other polarity round: a denied symptom is good (一点不卡), a denied virtue is bad, what never comes is bad. A sentence
is one to four clauses with neutral openers and fillers; where clauses disagree, the last one decides.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

from examples.shipped_models import everyday_turns
from examples.shipped_models.clause_marks import CLOSES, OPENS, plain
from examples.shipped_models.phrase_bank import Domain, PhraseBank, load_bank

REFERENCES = """
以前 上一个 旧的 老款 别家 隔壁 楼下那家 同事那台 之前那款 上次 想象中 预期 图片 专柜 实体店 网上 家里那个 同价位的 大牌 前几年 上一代 去年
别人家 路边摊 学校食堂 原来的 其他平台 我妈做的 普通的 自己在家做的 别的牌子
""".split()  # noqa: SIM905
SHORT_WAITS = "五分钟 十分钟 半小时 一会儿 当天 第二天 不到一小时 一个电话 两三天 没多久 立马 马上 很快 一下子".split()  # noqa: SIM905
OPPOSED = "但 但是 可是 不过 可 然而 只是 结果 谁知 偏偏 没想到 好在 幸好 所幸 而 就是".split()  # noqa: SIM905
LUCKY = {"好在", "幸好", "所幸"}
UNLUCKY = {"偏偏", "谁知"}


class SentenceMaker:
    """Draws sentences from one random stream; the same seed gives the same sentences."""

    def __init__(self, seed: int, nouns: list[str] | None = None, bank: PhraseBank | None = None) -> None:
        self.random = random.Random(seed)
        self.bank = bank or load_bank()
        self.nouns = nouns or []
        self.turn = self.bank.turns
        makers: list[tuple[Callable[[int], str], float]] = [
            (self.aspect, 30), (self.event, 24), (self.idiom, 9), (self.state, 10), (self.happening, 8),
            (self.comparison, 5), (self.person, 5), (self.service, 5), (self.rhetoric, 4), (self.pair, 10), (self.word, 8),
        ]  # fmt: skip
        makers += [(partial(maker, self), weight) for maker, weight in everyday_turns.MAKERS]
        self.makers = [maker for maker, _ in makers]
        self.weights = [weight for _, weight in makers]
        self.domain = self.bank.domains[0]

    def pick(self, words: list[str] | tuple[str, ...]) -> str:
        return words[int(self.random.random() * len(words))]

    def maybe(self, chance: float, words: list[str]) -> str:
        return self.pick(words) if self.random.random() < chance else ""

    def labelled(self) -> tuple[str, int]:
        """One sentence and its label."""
        good = self.random.randrange(2)
        return self.sentence(good), good

    def sentence(self, good: int) -> str:
        """One sentence of this polarity."""
        return plain(self.marked(good))[0]

    def marked(self, good: int, domain: Domain | None = None) -> str:
        """One sentence with marks round its clauses; `plain` takes them off."""
        self.domain = domain or self.random.choice(self.bank.domains)
        draw = self.random.random()
        if draw < 0.13:
            body = self._contrast(good)
        elif draw < 0.20:
            body = self._swap(good)
        else:
            count = self.random.choices((1, 2, 3, 4), (48, 33, 14, 5))[0]
            body = self._join([self.clause(good) for _ in range(count)])
        return self._finish(self._open(body), good)

    def clause(self, good: int) -> str:
        return OPENS[good] + self.random.choices(self.makers, self.weights)[0](good) + CLOSES

    def subject(self) -> str:
        draw = self.random.random()
        if draw < 0.12 and self.nouns:
            return self.pick(["", "", "这", "这个", "那个", "这款"]) + self.pick(self.nouns)
        word = self.pick(self.domain.subjects)
        return self.pick(["这", "这个", "这款"]) + word if draw > 0.93 and not word.startswith("这") else word

    def aspect(self, good: int) -> str:
        aspect = self.random.choice(self.domain.aspects)
        noun, phrase = self.pick(aspect.nouns), self.pick(aspect.phrases[good])
        degree = self.pick(self.bank.polar("degree")[good]) if self.random.random() < 0.45 else ""
        draw = self.random.random()
        if draw < 0.12 and len(phrase) <= 4:
            return f"{phrase}的{noun}"
        if draw < 0.2:
            noun = ""
        if draw > 0.72:
            noun = self.subject() + self.pick(["的", "", ""]) + noun
        if self.random.random() < 0.06:
            return noun + self.pick(["方面", "上", "这块", "算是", "可以说是", "那是", "可谓"]) + phrase
        return noun + degree + phrase

    def event(self, good: int) -> str:
        clause = self.pick(self.bank.events[good])
        if self.random.random() < 0.12:
            clause = self.subject() + self.pick(["，", "", " "]) + clause
        return clause

    def pair(self, good: int) -> str:
        return self.pick(self.bank.pairs[good])

    def word(self, good: int) -> str:
        """A single polar word in a plain frame."""
        word, degree = self.pick(self.bank.words[good]), self.pick(self.bank.polar("degree")[good])
        shape = self.pick(
            [
                "{}",
                "{}",
                "太{}了",
                "感觉{}",
                "让人{}",
                "只能说{}",
                "真{}",
                "这么{}",
                "那么{}",
                "{}得很",
                "挺{}的",
                "够{}",
            ]
        )
        text = shape.format(word) if self.random.random() < 0.6 else degree + word
        return self.subject() + text if self.random.random() < 0.5 else text

    def idiom(self, good: int) -> str:
        word = self.pick(self.bank.idioms[good])
        return self.subject() + word if self.random.random() < 0.25 else word

    def state(self, good: int) -> str:
        """A quality affirmed or denied."""
        bad_word, good_word = self.pick(self.turn["states_bad"]), self.pick(self.turn["states_good"])
        used = self.maybe(0.4, self.turn["time_used"])
        subject = self.maybe(0.5, [self.subject()])
        if good:
            if self.random.random() < 0.25:
                return subject + self.pick(self.turn["degree_good"]) + good_word
            denial = self.pick([
                "一点不{}", "一点都不{}", "一点也不{}", "完全不{}", "丝毫不{}", "也不{}", "都不{}", "不{}", "不会{}", "并不{}",
                "没有想象中那么{}", "没有{}的感觉", "从来不{}", "再也不{}了", "根本不{}", "居然不{}", "不怎么{}", "不觉得{}",
                "毫不{}", "没觉得{}", "不{}也不" + self.pick(self.turn["states_bad"]), "终于不{}了", "没那么{}",
            ])  # fmt: skip
            return subject + used + denial.format(bad_word)
        if self.random.random() < 0.5:
            return (
                subject
                + self.pick(self.turn["degree_bad"])
                + bad_word
                + self.pick(["", "", "了", "得很", "死了", "得要命"])
            )
        denial = self.pick([
            "一点不{}", "一点都不{}", "一点也不{}", "完全不{}", "根本不{}", "不{}", "不够{}", "不太{}", "不怎么{}", "谈不上{}",
            "没有说的那么{}", "没有想象中{}", "不算{}", "哪里{}了", "{}个鬼", "真心不{}", "毫不{}", "跟{}不沾边", "再也不{}了",
            "不{}也不" + good_word, "既不" + good_word + "也不{}", "没觉得{}", "看不出哪{}", "能不能{}一点", "越来越不{}",
        ])  # fmt: skip
        return subject + denial.format(self.pick(self.turn["states_good"]))

    def happening(self, good: int) -> str:
        """A fault that came or stayed away; a wish that was granted or not."""
        fault, wish = self.pick(self.turn["events_bad"]), self.pick(self.turn["events_good"])
        subject = self.maybe(0.5, [self.subject()])
        if good:
            if self.random.random() < 0.25:
                return subject + self.pick(SHORT_WAITS) + self.pick(["就", "就给", "便"]) + wish + "了"
            return subject + self.pick(self.turn["time_used"]) + self.pick([
                "也没{}", "都没{}", "没{}", "一次也没{}过", "从没{}过", "还没{}", "没有{}", "居然没{}", "愣是没{}", "再没{}过",
                "一点没{}", "都不会{}", "也不{}", "没见{}", "从来没{}过", "没发现{}", "没出现{}", "就没{}过", "丝毫没{}",
            ]).format(fault)  # fmt: skip
        if self.random.random() < 0.5:
            return (
                subject
                + self.pick(self.turn["time_short"])
                + fault
                + self.pick(["了", "", "得不行", "了一片", "得厉害"])
            )
        return subject + self.pick(self.turn["time_wait"]) + self.pick([
            "也没{}", "都没{}", "还没{}", "没{}", "还是没{}", "仍然没有{}", "一直没{}", "就是不{}", "也不给{}", "没人{}", "都不{}",
        ]).format(wish)  # fmt: skip

    def comparison(self, good: int) -> str:
        better, worse = self.pick(self.turn["comparative_good"]), self.pick(self.turn["comparative_bad"])
        other, subject = self.pick(REFERENCES), self.maybe(0.4, [self.subject()])
        much = self.pick(["多了", "不少", "太多", "很多", "一大截", "", "得多", "一百倍", "不止一点"])
        shape = self.random.random()
        if good:
            if shape < 0.55:
                return f"{subject}比{other}{self.pick(['', '', '还', '更', '要'])}{better}{much}"
            return self.pick([
                f"{other}没有{subject or '这个'}{better}", f"没有{other}那么{worse}", f"{subject}越用越{better}",
                f"不比{other}{worse}", f"{other}跟它没法比", f"还是这个{better}", f"没有比这更{better}的了",
                f"{subject}不像{other}那么{worse}", f"甩{other}几条街", f"不输{other}", f"终于比{other}{better}了",
            ])  # fmt: skip
        if shape < 0.5:
            return f"{subject}比{other}{self.pick(['', '', '还', '更', '要'])}{worse}{much}"
        return self.pick([
            f"{subject}不如{other}{better}", f"没有{other}{better}", f"没{other}的{better}", f"跟{other}没法比",
            f"{subject}比{other}差远了", f"{subject}越用越{worse}", f"还不如{other}", f"远不及{other}", f"连{other}都不如",
            f"一年比一年{worse}", f"{subject}没有以前{better}了", "大不如前", f"{other}比这{better}{much}",
        ])  # fmt: skip

    def person(self, good: int) -> str:
        who = self.pick(self.turn["subject_people"])
        return (
            self.pick(["", "", "", "他家", "这里的", "那个", "遇到的"])
            + who
            + self.pick(self.bank.polar("people")[good])
        )

    def service(self, good: int) -> str:
        deed, thing = self.pick(self.turn["refused"]), self.pick(self.turn["lacking"])
        who = self.maybe(0.5, self.turn["subject_people"])
        if good:
            return who + self.pick([
                f"主动给{deed}", f"二话不说就{deed}", f"马上{deed}了", f"爽快地{deed}了", f"免费{deed}", f"当场就{deed}",
                f"还送了{thing}", f"连{thing}都准备好了", f"{thing}都想到了", f"{deed}很痛快", f"{deed}一点不含糊",
            ])  # fmt: skip
        return self.pick([
            f"{who}不给{deed}", f"{who}拒绝{deed}", f"{who}死活不{deed}", f"连个{thing}都没有", f"连{thing}都没有",
            f"一个{thing}都没有", f"{deed}还要加钱", f"{who}不肯{deed}", f"{deed}比登天还难", f"{thing}也没有", f"找不到{thing}",
        ])  # fmt: skip

    def rhetoric(self, good: int) -> str:
        better, worse = self.pick(self.turn["states_good"]), self.pick(self.turn["states_bad"])
        subject = self.subject()
        if good:
            return self.pick([
                f"谁说{subject}{worse}", f"怎么会有这么{better}的{subject}", f"想不{better}都难", f"不得不夸夸{subject}",
                f"没有不{better}的地方", "早买早享受", f"早该换{subject}了", f"怎么没早点发现{subject}", f"要多{better}有多{better}",
                f"除了{better}没别的词", "后悔没早点买", "后悔买少了", f"哪里{worse}了明明很{better}",
            ])  # fmt: skip
        return self.pick([
            f"这也叫{subject}？", f"怎么会有这么{worse}的{subject}", f"{better}才怪", f"能{better}一点就好了", f"到底哪里{better}",
            f"除了{worse}还是{worse}", f"要多{worse}有多{worse}", f"谁说{subject}{better}的", "后悔没早点退", "后悔买了",
            f"希望商家能{better}一点", f"说好的{better}呢", f"还好意思说{better}", f"这样的{subject}也敢拿出来卖",
            f"宣传{better}其实{worse}",
        ])  # fmt: skip

    def _contrast(self, good: int) -> str:
        first, last = self.clause(1 - good), self.clause(good)
        if self.random.random() < 0.4:
            second = self.pick(["但", "但是", "可是", "不过", "却", "可"])
            return self.pick(["虽然", "虽说", "尽管", "固然"]) + first + "，" + second + last
        turn = self.pick(OPPOSED)
        if (turn in LUCKY and not good) or (turn in UNLUCKY and good):
            turn = "但是"
        tail = "，" + self.clause(good) if self.random.random() < 0.3 else ""
        return first + self.pick(["，", "，", "。", " "]) + turn + last + tail

    def _swap(self, good: int) -> str:
        start, end = self.random.choice(self.bank.swaps[good])
        draw = self.random.random()
        if draw < 0.25:
            end = self.clause(good)
        elif draw < 0.4:
            start = self.clause(1 - good)
            end = self.pick(["不过", "可", ""]) + end
        return f"{OPENS[1 - good]}{start}{CLOSES}，{OPENS[good]}{end}{CLOSES}"

    def _join(self, clauses: list[str]) -> str:
        mark = self.pick(["，", "，", "，", "，", "。", "！", " ", ",", "、", ""]) if len(clauses) > 1 else ""
        return (mark or "，").join(clauses) if self.random.random() < 0.85 else "，".join(clauses)

    def _open(self, body: str) -> str:
        draw = self.random.random()
        if draw < 0.14:
            opener = self.maybe(0.7, self.turn["neutral_open"]) + self.pick(self.turn["neutral_verb"])
        elif draw < 0.24:
            opener = self.maybe(0.5, self.turn["neutral_open"]) + self.pick(self.turn["neutral_fact"])
        elif draw < 0.36:
            opener = self.pick(self.turn["filler_good"])
        elif draw < 0.41:
            opener = self.subject()
        else:
            return body
        return opener + self.pick(["，", "，", "", " "]) + body

    def _finish(self, body: str, good: int) -> str:
        if self.random.random() < 0.07:
            body += "，" + self.pick(self.turn["neutral_fact"])
        if self.random.random() < 0.12:
            body += self.pick(self.turn["ending"])
        body += self.pick(["", "", "", "。", "。", "！", "！！", "~", "…", "!"])
        if self.random.random() < 0.06:
            body += self.pick(self.bank.polar("emoji")[good]) * self.random.choice((1, 1, 2, 3))
        return body
