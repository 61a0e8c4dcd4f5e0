"""Token ids back to text while they come: every piece is final, no piece holds half a character, and work per token is bounded.

Tokens of byte-level vocabularies are parts of characters; decoded too early they read as U+FFFD. So a piece is held back while
its end does, and only the few tokens since the last piece (and those of that piece, for decoders that look at what stands
before) are decoded again. Joined pieces are what the tokenizer makes of all ids at once.
"""

from collections.abc import Iterable

from tokenizers import Tokenizer

UNFINISHED = "\ufffd"
_PENDING = 8
"""Tokens that may wait for a character to be completed; a character of UTF-8 has at most four bytes."""
_LONGEST = 4


class Detokenizer:
    """The text of one row. `skipped` are ids that leave no trace in it, such as those that end it."""

    def __init__(self, tokenizer: Tokenizer, skipped: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._skipped = skipped
        self._shown: list[int] = []
        self._pending: list[int] = []

    def push(self, id: int) -> str:
        """The text that this token completes; empty while it is in the middle of a character."""
        if id in self._skipped:
            return ""
        self._pending.append(id)
        text, known = self._text([*self._shown, *self._pending]), len(self._text(self._shown))
        if not text.endswith(UNFINISHED):
            return self._show(text[known:], kept=0)
        if len(self._pending) < _PENDING:
            return ""
        # So many bytes are no character's: what cannot become one is shown, what still can is kept.
        for kept in range(1, _LONGEST + 1):
            before, after = self._pending[:-kept], self._pending[-kept:]
            whole = self._text([*self._shown, *before])
            if whole + self._text(after) == text:
                return self._show(whole[known:], kept=kept)
        return self._show(text[known:], kept=0)

    def rest(self) -> str:
        """What is left once the text has ended, unfinished characters included."""
        known = len(self._text(self._shown))
        return self._show(self._text([*self._shown, *self._pending])[known:], kept=0)

    def _show(self, piece: str, *, kept: int) -> str:
        shown = len(self._pending) - kept
        if piece or len(self._pending) >= _PENDING:
            # Where a kept part follows, it was found to read the same without what stands before it.
            self._shown = [] if kept else self._pending[:shown]
            self._pending = self._pending[shown:]
        return piece

    def _text(self, ids: Iterable[int]) -> str:
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=False)
        return text
