"""The vocabulary and tokenizer.json that the shipped models share.

A character vocabulary in the format of a HuggingFace `BertTokenizer`: lower-cased, every CJK character a token of its
own, and every letter, digit and emoji present both at the start of a word (`a`) and inside one (`##a`), so that a Latin
word is spelt out and never becomes `[UNK]`. The Chinese characters are the most frequent of jieba's dictionary, plus
all those that the caller's own texts use.
"""

from __future__ import annotations

import string
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PAD, UNK, CLS, SEP, MASK = range(5)
CHINESE_PUNCTUATION = "，。！？；：、“”‘’（）《》〈〉【】「」『』…—～·〔〕﹏￥％＋－＝／＠＃＆＊〜–•"
LETTERS_IN_WORDS = "αβγΩμ°℃¥£€$+=<>|~^`×÷±²³½①②③④⑤↑↓→←√★☆●○■□▲△◆◇♪♥❤✓✔✗✘"
EMOJI = (
    "😀😁😂🤣😃😄😅😆😉😊😋😎😍😘🥰😗🙂🤗🤩🤔😐😑😶🙄😏😣😥😮😯😪😫😴😌😛😜😝🤤😒😓😔😕🙃😲☹🙁😖😞😟😤😢😭😦😧😨😩🤯😬😰😱🥵🥶😳🤪"
    "😵😡😠🤬😷🤒🤕🤢🤮🤧😇🥳🥺🤡💩👻💀👍👎👏🙏💪👌✌🤝👊🙌🤷🤦💔💕💖💗💓💯🔥🎉🎁🌟⭐✨🌹🌸💐☀🌈🍀🐶🐱🐔🍎🍉🍺☕🍰💣💢💤🚗✈🏠📱💻👶"
)


def default_characters(count: int) -> list[str]:
    """The `count` most frequent Chinese characters of jieba's dictionary, most frequent first."""
    import jieba

    frequency: Counter[str] = Counter()
    with jieba.get_dict_file() as lines:
        for raw in lines:
            word, times, *_ = raw.decode("utf-8").split(" ")
            for character in word:
                if "\u4e00" <= character <= "\u9fff":
                    frequency[character] += int(times)
    return [character for character, _ in frequency.most_common(count)]


def build_vocabulary(size: int, texts: Iterable[str] = ()) -> list[str]:
    """A vocabulary of `size` tokens; id = place. Characters of `texts` come before merely frequent ones."""
    tokens = dict.fromkeys(SPECIAL)
    spelt = string.ascii_lowercase + string.digits + LETTERS_IN_WORDS + EMOJI
    for character in string.punctuation + CHINESE_PUNCTUATION + spelt:
        tokens.setdefault(character)
        if not _is_punctuation(character):
            tokens.setdefault("##" + character)
    for text in texts:
        tokens.update(dict.fromkeys(c for c in text.lower() if "\u4e00" <= c <= "\u9fff"))
    if len(tokens) > size:
        raise ValueError(f"{len(tokens)} tokens are required, {size} allowed")
    for character in default_characters(size):
        if len(tokens) == size:
            break
        tokens.setdefault(character)
    return list(tokens)


def build_tokenizer(vocabulary: list[str], max_length: int | None = None) -> object:
    """A `tokenizers.Tokenizer` that adds [CLS] and [SEP]; truncation only where `max_length` is given."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    tokenizer = Tokenizer(
        models.WordPiece({token: place for place, token in enumerate(vocabulary)}, unk_token="[UNK]"),
    )
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)],
    )
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(list(SPECIAL))
    if max_length is not None:
        tokenizer.enable_truncation(max_length)
    return tokenizer


def save_tokenizer(vocabulary: list[str], folder: Path) -> None:
    """Write tokenizer.json and vocab.txt. Neither truncation nor padding is stored: the platform sets its own."""
    folder.mkdir(parents=True, exist_ok=True)
    build_tokenizer(vocabulary).save(str(folder / "tokenizer.json"), pretty=False)
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")


def _is_punctuation(character: str) -> bool:
    """Whether BERT's pre-tokenizer makes this character a word of its own."""
    ascii_symbol = ord(character) < 128 and not character.isalnum()
    return ascii_symbol or unicodedata.category(character).startswith("P")
