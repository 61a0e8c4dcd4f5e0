import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from shared.serving.tasks.detokenize import UNFINISHED, Detokenizer
from tests.shared.serving.decoder import END, IDS, byte_level, letters

BYTES, LETTERS = byte_level(), letters()
TEXTS = st.text(st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from("你好 a😀👨‍👩‍👧é\n")), max_size=30)


def words() -> Tokenizer:
    """Words that begin with a blank, and bytes for what has no word, as SentencePiece's vocabularies do."""
    pieces = ["▁你", "好", "▁world", "s", "▁"]
    table = {piece: i for i, piece in enumerate([f"<0x{byte:02X}>" for byte in range(256)] + pieces)}
    made = Tokenizer(models.BPE(table, [], byte_fallback=True))
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return made


WORDS = words()


class Counting:
    """A tokenizer that remembers how much it was asked to decode."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.decoded = 0

    def decode(self, ids, **options):
        self.decoded += len(ids)
        return self.tokenizer.decode(ids, **options)


def pieces_of(tokenizer, ids, skipped=frozenset()):
    made = Detokenizer(tokenizer, skipped)
    return [*(made.push(each) for each in ids), made.rest()]


@settings(deadline=None)
@given(TEXTS)
def test_a_text_comes_back_without_half_a_character(text):
    for tokenizer, known in ((BYTES, text), (LETTERS, "".join(each for each in text if each in IDS))):
        pieces = pieces_of(tokenizer, tokenizer.encode(known).ids)
        assert "".join(pieces) == known
        assert UNFINISHED in known or not any(UNFINISHED in piece for piece in pieces)


@settings(deadline=None, max_examples=400)
@given(st.lists(st.one_of(st.integers(0, BYTES.get_vocab_size() - 1), st.sampled_from(BYTES.encode("你😀é").ids))))
def test_joined_pieces_are_the_whole_whatever_the_bytes(ids):
    whole = BYTES.decode(ids, skip_special_tokens=False)
    made, so_far = Detokenizer(BYTES, frozenset()), ""
    for each in ids:
        so_far += made.push(each)
        assert whole.startswith(so_far)
    assert so_far + made.rest() == whole


@settings(deadline=None)
@given(st.lists(st.sampled_from([*range(256, 261), *b"abc"])), TEXTS)
def test_blanks_between_words_stay(ids, text):
    more = list(text.encode())
    pieces = pieces_of(WORDS, [*ids, *more])
    assert "".join(pieces) == WORDS.decode([*ids, *more])


@pytest.mark.parametrize(
    ("tokenizer", "ids"),
    [
        (BYTES, BYTES.encode("你").ids[:2]),
        (BYTES, BYTES.encode("你").ids[-1:]),
        (BYTES, BYTES.encode("你").ids),
        (WORDS, [0xFF]),
        (WORDS, [0xE4, 0xBD]),
        (WORDS, [0xE4, 0xBD, 0xA0]),
        (LETTERS, [IDS["你"]]),
    ],
)
def test_work_per_token_does_not_grow(tokenizer, ids):
    counting = Counting(tokenizer)
    made, most = Detokenizer(counting, frozenset()), []
    for i in range(300):
        before = counting.decoded
        made.push(ids[i % len(ids)])
        most.append(counting.decoded - before)
    assert max(most) <= 100
    assert max(most[150:]) <= max(most[:150])


def test_what_ends_a_text_leaves_no_trace():
    ids = [IDS["你"], IDS[END], IDS["好"]]
    assert pieces_of(LETTERS, ids, frozenset({IDS[END]})) == ["你", "", "好", ""]
