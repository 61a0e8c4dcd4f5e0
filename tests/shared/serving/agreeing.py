"""When two answers to one text are the same: labels, spans and texts equal, numbers within a tolerance."""

import numpy as np
from hypothesis import strategies as st

from shared.serving.answer import Embedding, Entities, Label, Relations, Result, Tensors, Text

PIECES = (
    "我们今天去北京大学图书馆看书", "，", "。", "这家酒店的服务很差", "张三和李四在上海工作", "味道好极了！", " ", "\n", "iPhone 15", "Berlin",
    "不", "好", "价格是 199 元", "《红楼梦》", "𠮷", "é", "ABCDEFG", "?", "中国平安保险公司", "一二三四五六七八九十",
)  # fmt: skip
TEXTS = st.one_of(
    st.lists(st.sampled_from(PIECES), min_size=1, max_size=40).map("".join).filter(str.strip),
    st.text(min_size=1, max_size=30).filter(str.strip),
)
"""Short ones, long ones of several windows, and what nobody writes."""


def disagreement(one: Result, other: Result, tolerance: float) -> str:
    """How two results of one item differ; empty where they are the same.

    A label may be another one only where both were as probable as each other, within the tolerance.
    """
    if type(one) is not type(other):
        return f"{type(one).__name__} and {type(other).__name__}"
    match one, other:
        case Label(), Label():
            if one.label != other.label and abs(one.scores[one.label] - one.scores[other.label]) > 2 * tolerance:
                return f"label {one.label} and {other.label}"
            return _apart(
                [one.scores[name] for name in sorted(one.scores)],
                [other.scores[name] for name in sorted(one.scores)],
                tolerance,
            )
        case Entities(), Entities():
            a, b = (
                [(each.type, each.start, each.end, each.text) for each in result.entities] for result in (one, other)
            )
            if a != b:
                return f"entities {a} and {b}"
            return _apart([each.score for each in one.entities], [each.score for each in other.entities], tolerance)
        case Relations(), Relations():
            a, b = (
                [
                    (each.type, each.subject, each.object, each.subject_start, each.object_start)
                    for each in result.relations
                ]
                for result in (one, other)
            )
            if a != b:
                return f"relations {a} and {b}"
            return _apart([each.score for each in one.relations], [each.score for each in other.relations], tolerance)
        case Embedding(), Embedding():
            return _apart(one.embedding, other.embedding, tolerance)
        case Text(), Text():
            return "" if (one.text, one.finish) == (other.text, other.finish) else f"{one.text!r} and {other.text!r}"
        case Tensors(), Tensors():
            found = (_apart(one.outputs[name], other.outputs[name], tolerance) for name in one.outputs)
            return next((what for what in found if what), "")
    raise AssertionError(type(one))


def _apart(one, other, tolerance: float) -> str:
    a, b = np.asarray(one, np.float64), np.asarray(other, np.float64)
    if a.shape != b.shape:
        return f"{a.shape} and {b.shape} numbers"
    worst = float(np.abs(a - b).max(initial=0.0))
    return "" if worst <= tolerance else f"numbers {worst:.2e} apart"
