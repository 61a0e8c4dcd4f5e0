"""A real vocabulary for small models: the shipped models' characters, and word pieces beside them."""

import json
from pathlib import Path

import cloud_core.models

_SHIPPED = Path(cloud_core.models.__file__).parent / "shipped" / "sentiment-zh" / "tokenizer.json"
_WORDS = (
    "the of and to in a is that for it as was with be by on not he this are or his from at which but have an had they you were "
    "hotel room service good bad very price food slow fast clean dirty staff phone screen battery love hate great terrible "
    "beijing shanghai hangzhou alibaba google john mary london new york river street bank company university school model "
    "edge cloud device network server open source data "
)
_PIECES = [
    "##ing",
    "##ed",
    "##er",
    "##ly",
    "##tion",
    "##s",
    "##es",
    "##ness",
    "##ment",
    "##able",
    "##un",
    "##ab",
    "##ity",
]


def vocabulary(*, cased: bool = False) -> list[str]:
    """Tokens in id order: the special ones first, about 4700 of them."""
    tokens = list(json.loads(_SHIPPED.read_text(encoding="utf-8"))["model"]["vocab"])
    extra = [*_WORDS.split(), *_PIECES]
    if cased:
        capitals = [chr(code) for code in range(ord("A"), ord("Z") + 1)]
        extra += [*capitals, *(f"##{letter}" for letter in capitals), *(word.capitalize() for word in _WORDS.split())]
        extra += [letter for accented in "éèüöñåÅç" for letter in (accented, f"##{accented}")]
    return [*tokens, *(token for token in dict.fromkeys(extra) if token not in set(tokens))]
