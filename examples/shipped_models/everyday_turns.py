"""Clause makers about everyday consequences: nuisances, things that broke or not, waits, money, people's reactions.

Each takes the sentence maker (its random stream and words) and the wished polarity, as the makers of
`sentiment_grammar` do. They are built as near twins (半小时就修好了 / 半天才修好), so that the turning word is what counts.
"""

from __future__ import annotations

from typing import Protocol

SUMS = tuple("五块 十块 二十 三十块 一百 两百多 三百块 五百 一千块 小一千 两千多 好几百 一半的钱 不少钱".split())  # noqa: SIM905
BEFORE = (
    "用了以后",
    "用完",
    "睡了几天",
    "按完",
    "穿了一天",
    "戴久了",
    "吃完",
    "坐久了",
    "第二天",
    "一个疗程下来",
    "",
    "",
    "",
)
READERS = "大家 姐妹们 朋友们 想买的 各位 新手 有娃的 建议 真心劝大家 听我的 宝子们 后来的人 兄弟们".split()  # noqa: SIM905


class Words(Protocol):
    """What a clause maker needs: named word lists, a choice, a subject of the current domain."""

    turn: dict[str, list[str]]

    def pick(self, words: list[str] | tuple[str, ...]) -> str: ...

    def maybe(self, chance: float, words: list[str]) -> str: ...

    def subject(self) -> str: ...


def nuisance(maker: Words, good: int) -> str:
    """A nuisance that is there or is not."""
    what, subject = maker.pick(maker.turn["nuisances"]), maker.maybe(0.4, [maker.subject()])
    shapes = (
        ("全是{}", "到处是{}", "有{}", "一股{}", "{}太多", "{}一堆", "{}严重", "满是{}", "除了{}就是{}", "{}不少", "还有{}", "居然有{}",
         "发现了{}", "{}多得吓人", "受不了{}", "里面有{}", "都是{}", "{}没完没了", "总有{}", "{}明显", "{}很重", "又是{}又是" + what),
        ("没有{}", "没{}", "一点{}都没有", "也没有{}", "没有任何{}", "没有乱七八糟的{}", "零{}", "没发现{}", "没看到{}", "不见{}",
         "再也没有{}了", "没有讨厌的{}", "半点{}也没有", "没什么{}", "几乎没有{}", "告别{}", "从来没有{}", "没有一丝{}", "无{}"),
    )  # fmt: skip
    return subject + maker.pick(shapes[good]).replace("{}", what)


def breakage(maker: Words, good: int) -> str:
    """Fragile things that arrived whole or did not."""
    thing, harm = maker.pick(maker.turn["fragile"]), maker.pick(maker.turn["harmed"])
    if good:
        shape = maker.pick(("一个{t}都没{h}", "一件{t}没{h}", "{t}一点没{h}", "{t}都没{h}", "{t}完好", "没有一个{t}{h}了", "{t}一个没{h}",
                            "{t}一个都没{h}", "{t}完完整整", "连{t}都没{h}", "{t}丝毫没{h}"))  # fmt: skip
    else:
        shape = maker.pick(("{t}{h}了一半", "{t}{h}了好几个", "{t}全{h}了", "{t}{h}了", "{t}都{h}了", "{t}{h}得没法用", "{t}{h}了不赔",
                            "打开一看{t}{h}了", "{t}{h}了还不承认", "把{t}给{h}了", "好几个{t}{h}了", "{t}没用就{h}了"))  # fmt: skip
    return shape.format(t=thing, h=harm)


def wait(maker: Words, good: int) -> str:
    """How soon something was done."""
    done, subject = maker.pick(maker.turn["finished"]), maker.maybe(0.3, [maker.subject()])
    if good:
        soon = maker.pick(maker.turn["soon"]) + maker.pick(("就", "就", "就给", "便", "内就"))
        return subject + soon + done + maker.pick(("了", "", "啦"))
    late = maker.pick(maker.turn["late"])
    shape = maker.pick(("{l}才{d}", "等了{l}才{d}", "{l}还没{d}", "{l}了都没{d}", "{l}也没{d}", "拖了{l}才{d}", "{l}了还不{d}",
                        "足足{l}才{d}", "说好马上{d}，结果{l}"))  # fmt: skip
    return subject + shape.format(l=late, d=done)


def money(maker: Words, good: int) -> str:
    """Money saved or lost."""
    sum_ = maker.pick(SUMS)
    shapes = (
        ("多收了{}", "被坑了{}", "白花了{}", "比别家贵{}", "贵了{}", "多花了{}", "还要另收{}", "扣了我{}", "{}打水漂了", "涨了{}", "加收{}",
         "刚买就降价{}", "{}买了个教训", "结账多出{}", "押金{}不退", "{}喂了狗", "少退了{}", "被骗了{}", "亏了{}", "坐地加价{}"),
        ("省了{}", "便宜了{}", "退了我{}", "比别家便宜{}", "优惠了{}", "少收了{}", "返了{}", "抹掉了{}", "立减{}", "才{}就买到了", "只要{}",
         "{}花得值", "{}就吃撑了", "还送了{}的券", "补了我{}差价", "赚了{}", "{}买到宝", "{}能买到这样的真不错"),
    )  # fmt: skip
    return maker.pick(shapes[good]).format(sum_)


def reaction(maker: Words, good: int) -> str:
    """What people or one's body said to it."""
    side = "_good" if good else "_bad"
    if maker.pick(("family", "family", "body")) == "body":
        before = maker.pick(BEFORE)
        return before + maker.pick(maker.turn["body"]) + maker.pick(maker.turn["body" + side])
    subject = maker.maybe(0.2, [maker.subject()])
    who = maker.pick(maker.turn["family"]) + maker.maybe(0.2, ["都", "也", "看了", "用了", "吃完"])
    return subject + who + maker.pick(maker.turn["family" + side])


def advice(maker: Words, good: int) -> str:
    """What the writer tells others to do."""
    return maker.maybe(0.5, READERS) + maker.pick(maker.turn["advice_good" if good else "advice_bad"])


MAKERS = ((nuisance, 7), (breakage, 4), (wait, 6), (money, 3), (reaction, 9), (advice, 3))
