"""The bundle's `tokenizer.json`, made from the tokenizer the source's own pipeline uses, with that one's settings."""

import json
from typing import Any, NamedTuple

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece
from transformers import BertTokenizer, PreTrainedTokenizerFast

from shared.protocol.errors import Refusal, Refused

FILE = "tokenizer.json"
_LONGEST_WORD = 100


class TokenizerFile(NamedTuple):
    """The file's bytes; `nfc`: the text is composed first, as the source's tokenizer does; `tokens`: ids are below it."""

    data: bytes
    lowercase: bool
    nfc: bool
    tokens: int


def tokenizer_file(tokenizer: Any) -> TokenizerFile:
    """What gives the same ids with the tokenizers library alone.

    Raises:
        Refused: a kind of tokenizer that cannot be written so.

    """
    if isinstance(tokenizer, PreTrainedTokenizerFast):
        return _of_fast(tokenizer)
    # Its subclasses may do something else to the text.
    if type(tokenizer) is BertTokenizer and tokenizer.do_basic_tokenize:
        return _of_slow(tokenizer)
    raise Refused(
        "this tokenizer cannot travel",
        kind=Refusal.UNSUPPORTED,
        field="tokenizer",
        value=type(tokenizer).__name__,
        allowed="BERT's vocab.txt, or a tokenizer.json",
    )


def _of_fast(tokenizer: PreTrainedTokenizerFast) -> TokenizerFile:
    value = json.loads(tokenizer.backend_tokenizer.to_str())
    # Cutting and padding are the engine's business; MiniLM's file would pad every text to 128.
    value["truncation"] = value["padding"] = None
    lowercase = _lowers(value.get("normalizer"))
    return TokenizerFile(_bytes(value), lowercase=lowercase, nfc=False, tokens=_size(tokenizer.get_vocab()))


def _of_slow(tokenizer: BertTokenizer) -> TokenizerFile:
    basic = tokenizer.basic_tokenizer
    made = Tokenizer(
        WordPiece(dict(tokenizer.vocab), unk_token=str(tokenizer.unk_token), max_input_chars_per_word=_LONGEST_WORD)
    )
    made.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=basic.tokenize_chinese_chars,
        strip_accents=basic.strip_accents,
        lowercase=basic.do_lower_case,
    )
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    first, last = str(tokenizer.cls_token), str(tokenizer.sep_token)
    made.post_processor = processors.TemplateProcessing(
        single=f"{first}:0 $A:0 {last}:0",
        pair=f"{first}:0 $A:0 {last}:0 $B:1 {last}:1",
        special_tokens=[(first, tokenizer.cls_token_id), (last, tokenizer.sep_token_id)],
    )
    made.decoder = decoders.WordPiece(prefix="##")
    for _, token in sorted(tokenizer.added_tokens_decoder.items()):
        plain = AddedToken(
            token.content,
            single_word=token.single_word,
            lstrip=token.lstrip,
            rstrip=token.rstrip,
            normalized=token.normalized,
            special=token.special,
        )
        (made.add_special_tokens if token.special else made.add_tokens)([plain])
    strips = basic.strip_accents if basic.strip_accents is not None else basic.do_lower_case
    # Stripping accents takes the text apart (NFD) on both sides; only where it is left whole does it come composed.
    return TokenizerFile(
        made.to_str().encode(),
        lowercase=bool(basic.do_lower_case),
        nfc=not strips,
        tokens=_size(tokenizer.get_vocab()),
    )


def _lowers(normalizer: Any) -> bool:
    if not isinstance(normalizer, dict):
        return False
    if normalizer.get("type") == "Sequence":
        return any(_lowers(inner) for inner in normalizer.get("normalizers", ()))
    return normalizer.get("type") == "Lowercase" or normalizer.get("lowercase") is True


def _size(vocabulary: dict[str, int]) -> int:
    return max(vocabulary.values(), default=-1) + 1


def _bytes(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
