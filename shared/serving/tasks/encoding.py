"""Text to token ids, and token ids to padded arrays: what every text task shares.

Truncation and padding of the tokenizer are switched off once, here; cutting is done by ids, so any thread may encode.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
from tokenizers import Tokenizer

from shared.bundle.manifest import Manifest, TaskKind
from shared.protocol.errors import Corrupt, Refusal, Refused, shortened
from shared.serving.answer import Array
from shared.serving.tasks.task import Prepared
from shared.serving.tasks.tokenizer_file import read_tokenizer
from shared.serving.tasks.windows import INSIDE, begin_after

_SPARE = 64
"""Code points per token of the limit that are looked at: blanks and long words give fewer tokens than code points."""
_CACHED = 65_536
"""Code points whose pieces are remembered; more than a language uses."""


class Encoded(msgspec.Struct, frozen=True, kw_only=True):
    """Token ids of one text or window, special tokens included."""

    ids: list[int]
    types: list[int]
    truncated: bool = False


class Pieces(msgspec.Struct, frozen=True, kw_only=True):
    """A text as pieces, without special tokens. `cut`: only its beginning was looked at.

    `places` are the pieces that get a tag, `offsets` the code points of the text each of them stands for; `begins` says
    of each piece how good it is to begin a window with it (`windows`).
    """

    ids: list[int]
    places: list[int]
    offsets: list[tuple[int, int]]
    begins: list[int]
    cut: bool = False


class Encoder:
    """The bundle's tokenizer and its limit."""

    def __init__(self, tokenizer: Tokenizer, *, max_length: int) -> None:
        self.max_length = max_length
        self._tokenizer = tokenizer
        self._unknown = self._id("[UNK]", "<unk>")
        self._first = self._id("[CLS]", "<s>")
        self._last = self._id("[SEP]", "</s>")
        pad = self._find("[PAD]", "<pad>")
        self._pad = 0 if pad is None else pad
        self._known: dict[str, tuple[int, ...]] = {}

    def text(self, text: str, *, truncate: bool) -> Encoded:
        """The whole text as the tokenizer does it, special tokens included.

        Raises:
            Refused: longer than the model's limit and not to be truncated.

        """
        bounded = self._bounded(text, truncate)
        encoding = self._tokenizer.encode(_without_surrogates(bounded))
        ids, types = encoding.ids, encoding.type_ids
        if len(ids) <= self.max_length:
            return Encoded(ids=ids, types=types, truncated=len(bounded) < len(text))
        self._check_length(len(ids), truncate)
        return Encoded(
            ids=[*ids[: self.max_length - 1], ids[-1]],
            types=[*types[: self.max_length - 1], types[-1]],
            truncated=True,
        )

    def characters(self, text: str, *, most: int) -> Pieces:
        """Each of the first `most` code points alone, so that every one keeps a place; one without pieces is unknown.

        Blanks, joiners and control characters have none. `[SEP]` and its like are the characters they are written with.
        """
        ids: list[int] = []
        places: list[int] = []
        begins: list[int] = []
        before = "\n"
        for character in text[:most]:
            pieces = self._known.get(character) or self._piece(character)
            places.append(len(ids))
            ids.extend(pieces)
            begins.append(begin_after(before))
            if len(pieces) > 1:
                begins.extend([INSIDE] * (len(pieces) - 1))
            before = character
        offsets = [(i, i + 1) for i in range(len(places))]
        return Pieces(ids=ids, places=places, offsets=offsets, begins=begins, cut=most < len(text))

    def words(self, text: str, *, most: int) -> Pieces:
        """The first `most` code points as the tokenizer does them; the first piece of each word is tagged for the whole word."""
        bounded = _replaced(text[:most])
        encoding = self._tokenizer.encode(bounded, add_special_tokens=False)
        places: list[int] = []
        offsets: list[tuple[int, int]] = []
        begins: list[int] = []
        word, reached = None, 0
        for i, (own, (start, end)) in enumerate(zip(encoding.word_ids, encoding.offsets, strict=True)):
            # Two words out of one code point would be two entities on the same text.
            if own == word or start < reached or start == end:
                begins.append(INSIDE)
                if places and own == word:
                    offsets[-1] = (offsets[-1][0], max(reached, end))
            else:
                begins.append(begin_after(bounded[reached - 1] if reached else "\n"))
                places.append(i)
                offsets.append((start, end))
            word, reached = own, max(reached, end)
        return Pieces(ids=encoding.ids, places=places, offsets=offsets, begins=begins, cut=most < len(text))

    def located(self, text: str, *, most: int) -> tuple[list[int], list[tuple[int, int]]]:
        """The first `most` code points as the tokenizer does them, special tokens included, and each token's code points."""
        encoding = self._tokenizer.encode(_replaced(text[:most]))
        return encoding.ids, encoding.offsets

    def framed(self, ids: Sequence[int]) -> Encoded:
        """Pieces between the special tokens a program expects around them."""
        return Encoded(ids=[self._first, *ids, self._last], types=[0] * (len(ids) + 2))

    def padded(self, batch: Sequence[Encoded]) -> dict[str, Array]:
        """`input_ids`, `attention_mask` and `token_type_ids`, int64 [rows, longest]."""
        shape = (len(batch), max(len(item.ids) for item in batch))
        ids = np.full(shape, self._pad, dtype=np.int64)
        mask = np.zeros(shape, dtype=np.int64)
        types = np.zeros(shape, dtype=np.int64)
        for row, item in enumerate(batch):
            length = len(item.ids)
            ids[row, :length] = item.ids
            mask[row, :length] = 1
            types[row, :length] = item.types
        return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}

    def _bounded(self, text: str, truncate: bool) -> str:
        # A body of megabytes must not be tokenized only to learn that it is too long.
        limit = self.max_length * _SPARE
        if len(text) <= limit:
            return text
        if not truncate:
            raise Refused(
                f"the text is too long for the model: {len(text)} characters, the limit is {self.max_length} tokens",
                kind=Refusal.UNPROCESSABLE,
                field="text",
                value=len(text),
                allowed=f"at most {self.max_length} tokens, or parameters.truncate true",
            )
        return text[:limit]

    def _check_length(self, length: int, truncate: bool) -> None:
        if not truncate:
            raise Refused(
                f"the text is too long for the model: {length} tokens, the limit is {self.max_length}",
                kind=Refusal.UNPROCESSABLE,
                field="text",
                value=length,
                allowed=f"at most {self.max_length} tokens, or parameters.truncate true",
            )

    def _piece(self, character: str) -> tuple[int, ...]:
        if "\ud800" <= character <= "\udfff":
            return (self._unknown,)
        ids = tuple(self._tokenizer.encode(character, add_special_tokens=False).ids) or (self._unknown,)
        if len(self._known) < _CACHED:
            self._known[character] = ids
        return ids

    def _find(self, *names: str) -> int | None:
        for name in names:
            found: int | None = self._tokenizer.token_to_id(name)
            if found is not None:
                return found
        return None

    def _id(self, *names: str) -> int:
        found = self._find(*names)
        if found is None:
            raise Corrupt(f"the tokenizer has none of {', '.join(names)}")
        return found


def encoder_for(manifest: Manifest, folder: Path) -> Encoder:
    """The encoder of a bundle; set up once, so that any thread may encode.

    Raises:
        Corrupt: the bundle has no tokenizer, or one that cannot be read.

    """
    tokenizer = read_tokenizer(manifest, folder)
    # Where places in the text are tagged, `[SEP]` is five characters of it; elsewhere it is what BERT's tokenizer makes of it.
    tokenizer.encode_special_tokens = manifest.task is TaskKind.TOKEN_CLASSIFICATION
    return Encoder(tokenizer, max_length=manifest.processing.max_length)


def text_of(item: object) -> str:
    """The item as a text that has content.

    Raises:
        Refused: not a text, or an empty one (422).

    """
    if not isinstance(item, str):
        raise Refused("the model takes a text", kind=Refusal.UNPROCESSABLE, field="text", value=type(item).__name__)
    if not item:
        raise Refused("the text is empty", kind=Refusal.UNPROCESSABLE, field="text", value="", allowed="some text")
    return item


def truncate_of(parameters: Mapping[str, object]) -> bool:
    """`parameters.truncate`, false unless given.

    Raises:
        Refused: not a boolean.

    """
    value = parameters.get("truncate", False)
    if not isinstance(value, bool):
        raise Refused("wrong type", field="parameters.truncate", value=shortened(value), allowed="true or false")
    return value


def prepared(encoded: Encoded, parameters: Mapping[str, object]) -> Prepared:
    """One encoded text, ready for a batch."""
    return Prepared(tokens=len(encoded.ids), data=encoded, truncated=encoded.truncated, parameters=parameters)


def guessed_tokens(item: object, max_length: int) -> int:
    """About how many tokens a text has: one per code point, as in Chinese, and two special ones."""
    return min(len(item) + 2, max_length) if isinstance(item, str) else max_length


def _without_surrogates(text: str) -> str:
    # A lone surrogate has no UTF-8 form and the tokenizer raises TypeError; BERT's own clean-up drops it as well.
    try:
        text.encode()
    except UnicodeEncodeError:
        return "".join(character for character in text if not "\ud800" <= character <= "\udfff")
    return text


def _replaced(text: str) -> str:
    # U+FFFD keeps the offsets of what follows a lone surrogate true; dropping it would shift them.
    try:
        text.encode()
    except UnicodeEncodeError:
        return "".join("\ufffd" if "\ud800" <= character <= "\udfff" else character for character in text)
    return text


def output_of(outputs: Mapping[str, Array], *names: str) -> Array:
    """The first of `names` among a program's outputs, else its first output."""
    for name in names:
        if name in outputs:
            return outputs[name]
    return next(iter(outputs.values()))


def softmax(logits: Array) -> Array:
    """Probabilities over the last axis, float32."""
    raised = np.exp(logits.astype(np.float32) - logits.max(axis=-1, keepdims=True))
    probabilities: Array = raised / raised.sum(axis=-1, keepdims=True)
    return probabilities
