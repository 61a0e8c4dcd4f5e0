"""Chinese texts of about a given length, put together from the clauses of the project's own example sentences."""

import json
import random
import re

from cloud_core.demo.sentences import LOAD, REVIEWS
from cloud_core.models.shipped import shipped_models

SLACK = 5
"""Characters that a text may be longer or shorter."""
_ENDS = re.compile(r"[，。！？；、,.!?;\s]+")
_CHINESE = re.compile(r"[一-鿿]{3,20}")


def chinese_texts(count: int, *, characters: int, seed: int = 1) -> list[str]:
    """`count` different texts, the same for the same seed."""
    clauses = _clauses()
    draw = random.Random(seed)
    made: dict[str, None] = {}
    while len(made) < count:
        text = draw.choice(clauses)
        while len(text) < characters - SLACK - 1:
            text += "，" + draw.choice(clauses)
        if len(text) + 1 <= characters + SLACK:
            made[text + "。"] = None
    return list(made)


def _clauses() -> list[str]:
    """Purely Chinese ones, so that a character is a token to any of our tokenizers."""
    folder = next(path for path in shipped_models() if path.name == "sentiment-zh")
    golden = json.loads((folder / "golden.json").read_text())
    sentences = [*LOAD, *(text for text, _ in REVIEWS), *(item["text"] for item in golden["items"])]
    found = (clause for sentence in sentences for clause in _ENDS.split(sentence))
    return list(dict.fromkeys(clause for clause in found if _CHINESE.fullmatch(clause)))
