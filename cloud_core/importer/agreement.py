"""How far two sets of answers to the same inputs agree, in named figures: what a gate judges, a manifest keeps and a card tells.

| figure | of | is |
|---|---|---|
| `labels` | classes | share of texts with the same label |
| `entities`, `relations` | extractions | F1 of whole ones: type and place (and subject) the same |
| `texts` | extractions, generated text | share of texts with exactly the same found or written |
| `tags` | entities | share of code points that stand in the same entity, or in none |
| `mean_cosine`, `least_cosine` | vectors, tensors | of the angle between the two, over all inputs |
| `largest_score_difference` | scores | of probabilities of what both found |
| `largest_difference` | vectors, tensors | of any number |
"""

from collections.abc import Sequence

import numpy as np

from shared.protocol.errors import shortened
from shared.serving.answer import Array, Embedding, Entities, Label, Relations, Result, Tensors, Text

DIGITS = 6
_SHOWN = 80
Figures = dict[str, float]


def compared(wanted: Sequence[Result], found: Sequence[Result], items: Sequence[object] = ()) -> Figures:
    """The figures of the kind of answer both are; answers stand in the order of `items`.

    Raises:
        ValueError: not the same number, or nothing to compare.

    """
    if not wanted or len(wanted) != len(found):
        raise ValueError("the same inputs must have been answered, one at least")
    pairs = list(zip(wanted, found, strict=True))
    match wanted[0]:
        case Label():
            figures = _labels(pairs)
        case Entities():
            figures = _extracted(pairs, "entities") | _tags(pairs, items)
        case Relations():
            figures = _extracted(pairs, "relations")
        case Embedding() | Tensors():
            figures = _vectors(pairs)
        case Text():
            figures = {"texts": _share([_text(a) == _text(b) for a, b in pairs])}
    return {name: round(value, DIGITS) for name, value in figures.items()}


def alike(wanted: Result, found: Result) -> bool:
    """Whether two answers can be compared: of one kind, and vectors of one length."""
    left, right = _arrays(wanted), _arrays(found)
    return type(wanted) is type(found) and [each.shape for each in left] == [each.shape for each in right]


def is_same(wanted: Result, found: Result) -> bool:
    """Whether one answer says the same as the other, whatever its scores: label, places, text; vectors by cosine 0.99."""
    match wanted, found:
        case Label(), Label():
            return wanted.label == found.label
        case (Entities(), Entities()) | (Relations(), Relations()):
            return _things(wanted).keys() == _things(found).keys()
        case Text(), Text():
            return wanted.text == found.text
        case _:
            return all(_cosine(a, b) >= 0.99 for a, b in zip(_arrays(wanted), _arrays(found), strict=True))


def difference_in_words(wanted: Result, found: Result) -> str:
    """What was wanted and what came, for a table; of vectors, how far apart they are."""
    if isinstance(wanted, Embedding | Tensors):
        cosines = [_cosine(a, b) for a, b in zip(_arrays(wanted), _arrays(found), strict=True)]
        return "cosine " + ", ".join(f"{cosine:.4f}" for cosine in cosines)
    return f"{shortened(_said(wanted), _SHOWN)} | {shortened(_said(found), _SHOWN)}"


def _said(result: Result) -> str:
    match result:
        case Label():
            return f"{result.label} {result.score:.4f}"
        case Entities():
            return (
                ", ".join(f"{each.type} {each.text} {each.start}-{each.end}" for each in result.entities) or "nothing"
            )
        case Relations():
            return ", ".join(f"{each.type} {each.object} {each.object_start}" for each in result.relations) or "nothing"
        case _:
            return _text(result) or ""


def _labels(pairs: Sequence[tuple[Result, Result]]) -> Figures:
    same, worst = [], 0.0
    for wanted, found in pairs:
        if isinstance(wanted, Label) and isinstance(found, Label):
            same.append(wanted.label == found.label)
            every = wanted.scores or {wanted.label: wanted.score}
            worst = max(worst, *(abs(score - found.scores.get(label, 0.0)) for label, score in every.items()))
    return {"labels": _share(same), "largest_score_difference": worst}


def _extracted(pairs: Sequence[tuple[Result, Result]], name: str) -> Figures:
    both = total = 0
    worst = 0.0
    for wanted, found in pairs:
        left, right = _things(wanted), _things(found)
        both += len(left.keys() & right.keys())
        total += len(left) + len(right)
        worst = max([worst, *(abs(left[key] - right[key]) for key in left.keys() & right.keys())])
    exact = _share([_things(a).keys() == _things(b).keys() for a, b in pairs])
    return {name: 2 * both / total if total else 1.0, "texts": exact, "largest_score_difference": worst}


def _things(result: Result) -> dict[tuple[object, ...], float]:
    """What was found, each with its score."""
    if isinstance(result, Entities):
        return {(each.type, each.start, each.end): each.score for each in result.entities}
    if isinstance(result, Relations):
        return {
            (each.type, each.subject, each.subject_start, each.object, each.object_start, each.object_end): each.score
            for each in result.relations
        }
    return {}


def _tags(pairs: Sequence[tuple[Result, Result]], items: Sequence[object]) -> Figures:
    same = count = 0
    for (wanted, found), item in zip(pairs, items, strict=False):
        if isinstance(item, str) and isinstance(wanted, Entities) and isinstance(found, Entities):
            left, right = _tagged(wanted, len(item)), _tagged(found, len(item))
            same += sum(a == b for a, b in zip(left, right, strict=True))
            count += len(item)
    return {"tags": same / count} if count else {}


def _tagged(result: Entities, length: int) -> list[tuple[str, int] | None]:
    tags: list[tuple[str, int] | None] = [None] * length
    for each in result.entities:
        tags[each.start : each.end] = [(each.type, each.start)] * (each.end - each.start)
    return tags


def _vectors(pairs: Sequence[tuple[Result, Result]]) -> Figures:
    cosines: list[float] = []
    worst = 0.0
    for wanted, found in pairs:
        for left, right in zip(_arrays(wanted), _arrays(found), strict=True):
            cosines.append(_cosine(left, right))
            worst = max(worst, float(np.abs(left - right).max(initial=0.0)))
    return {"mean_cosine": float(np.mean(cosines)), "least_cosine": min(cosines), "largest_difference": worst}


def _arrays(result: Result) -> list[Array]:
    if isinstance(result, Embedding):
        return [result.embedding.astype(np.float64)]
    if isinstance(result, Tensors):
        return [_numbers(result.outputs[name]) for name in sorted(result.outputs)]
    return []


def _numbers(array: Array) -> Array:
    """As floats; texts, which have no angle, by what they are made of."""
    if array.dtype.kind in "fiub":
        return array.astype(np.float64)
    return np.frombuffer(repr(array.tolist()).encode(), dtype=np.uint8).astype(np.float64)


def _cosine(left: Array, right: Array) -> float:
    a, b = left.ravel(), right.ravel()
    if a.shape != b.shape:
        return 0.0
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    # Two vectors of zeros say the same; one of zeros and one that is not do not.
    return float(a @ b) / norms if norms else float(np.array_equal(a, b))


def _share(same: Sequence[bool]) -> float:
    return sum(same) / len(same)


def _text(result: Result) -> str | None:
    return result.text if isinstance(result, Text) else None
