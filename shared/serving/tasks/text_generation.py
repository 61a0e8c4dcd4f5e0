"""Generated text, token by token: a decoder with a cache of keys and values, greedy unless a request asks for chance.

Every row of a batch has its own parameters, ends by itself, and is dropped from the batch then, or when nobody wants it any more.
"""

from collections.abc import Collection, Generator, Mapping, Sequence

import msgspec
from tokenizers import Tokenizer

from shared.bundle.manifest import Generation, Processing
from shared.protocol.errors import Corrupt, Refusal, Refused
from shared.serving.answer import Text
from shared.serving.tasks.detokenize import Detokenizer
from shared.serving.tasks.encoding import text_of, truncate_of
from shared.serving.tasks.generation_parameters import DEFAULT_MAX_TOKENS, Asked, asked_of, wanted_tokens
from shared.serving.tasks.kv_cache import KvCache
from shared.serving.tasks.sampling import Sampler
from shared.serving.tasks.stop_strings import StopStrings
from shared.serving.tasks.task import Prepared, Run

_SPARE = 64
"""Code points per token of the limit that are looked at; a body of megabytes is not tokenized to learn that it is too long."""


class Prompt(msgspec.Struct, frozen=True, kw_only=True):
    """A prompt's token ids, what was asked, and how many tokens may follow."""

    ids: tuple[int, ...]
    asked: Asked
    room: int


class TextGeneration:
    """Prompt and text together take at most `context` tokens; the prompt at most the bundle's `max_length` of them."""

    name = "text-generation"

    def __init__(self, tokenizer: Tokenizer, processing: Processing) -> None:
        if processing.generation is None:
            raise Corrupt("the bundle does not say what its decoder's cache looks like (processing.generation)")
        self._generation: Generation = processing.generation
        self._tokenizer = tokenizer
        self._starts = tuple(self._generation.starts)
        self._limit = min(processing.max_length, self._generation.context - 1)
        if min(self._limit, self._generation.context // 2) <= len(self._starts):
            raise Corrupt(f"a context of {self._generation.context} tokens leaves no room for a prompt")
        special = {number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
        self._skipped = frozenset(special | set(self._generation.ends))

    def estimate(self, item: object, parameters: Mapping[str, object]) -> int:
        """One token per code point of the prompt, and those that may be written."""
        prompt = len(item) + len(self._starts) if isinstance(item, str) else self._limit
        return min(min(prompt, self._limit) + wanted_tokens(parameters), self._generation.context)

    def prepare(self, item: object, parameters: Mapping[str, object]) -> Prepared:
        """Tokens of the prompt; an over-long one is refused with the limit, or cut from the left.

        Raises:
            Refused: a prompt or a parameter the model cannot take.

        """
        asked, truncate, text = asked_of(parameters), truncate_of(parameters), text_of(item)
        context = self._generation.context
        # A prompt that must be cut leaves room for what was asked for; one that fits is cut only for an explicit wish.
        limit, kept = self._limit, min(self._limit, context - min(DEFAULT_MAX_TOKENS, context // 2))
        if asked.max_tokens is not None:
            most = context - len(self._starts) - 1
            if asked.max_tokens > most:
                raise _too_much(asked.max_tokens, most, "the context has room for")
            kept = min(self._limit, context - asked.max_tokens)
            limit = kept if truncate else limit
        ids, cut = self._encoded(text, limit, kept, truncate=truncate)
        room = context - len(ids)
        if asked.max_tokens is not None and asked.max_tokens > room:
            raise _too_much(asked.max_tokens, room, f"a prompt of {len(ids)} tokens leaves room for")
        room = min(room, asked.max_tokens or DEFAULT_MAX_TOKENS)
        data = Prompt(ids=ids, asked=asked, room=room)
        return Prepared(tokens=len(ids) + room, data=data, truncated=cut, parameters=parameters)

    def steps(
        self, run: Run, batch: Sequence[Prepared]
    ) -> Generator[Sequence[Text | None], Collection[int] | None, None]:
        """One step per token: the piece each item's text grew by, None where it did not."""
        writers = [_Writer(self._tokenizer, self._skipped, frozenset(self._generation.ends), item) for item in batch]
        cache = KvCache(self._generation, [item.data.ids for item in batch])
        places = list(range(len(batch)))
        while places:
            logits = cache.advance(run)
            tokens = [writers[place].sampler.next(logits[row]) for row, place in enumerate(places)]
            pieces: list[Text | None] = [None] * len(batch)
            for place, token in zip(places, tokens, strict=True):
                pieces[place] = writers[place].wrote(token)
            gone = (yield pieces) or ()
            rows = [row for row, place in enumerate(places) if not writers[place].ended and place not in gone]
            places = [places[row] for row in rows]
            if places:
                cache.append([tokens[row] for row in rows], rows)

    def _encoded(self, text: str, limit: int, kept: int, *, truncate: bool) -> tuple[tuple[int, ...], bool]:
        """Ids of starts and prompt, the last `kept` of them where there are more than `limit`; whether the prompt was cut."""
        seen = limit * _SPARE
        if len(text) > seen and not truncate:
            raise _too_long(f"{len(text)} characters", len(text), limit)
        bounded = text[-seen:]
        # What stands before a prompt is named in the manifest (`starts`): a tokenizer's own additions would come twice.
        ids: list[int] = self._tokenizer.encode(_without_surrogates(bounded), add_special_tokens=False).ids
        count = len(self._starts) + len(ids)
        if not count:
            raise Refused(
                "the text has no tokens", kind=Refusal.UNPROCESSABLE, field="text", value=text, allowed="some text"
            )
        if count <= limit:
            return (*self._starts, *ids), len(bounded) < len(text)
        if not truncate:
            raise _too_long(f"{count} tokens", count, limit)
        return (*self._starts, *ids[count - kept :]), True


class _Writer:
    """One item's text as it grows."""

    def __init__(self, tokenizer: Tokenizer, skipped: frozenset[int], ends: frozenset[int], item: Prepared) -> None:
        prompt: Prompt = item.data
        self.sampler = Sampler(prompt.asked)
        self.ended = False
        self._item = item
        self._ends = ends
        self._left = prompt.room
        self._untold = 0
        self._detokenizer = Detokenizer(tokenizer, skipped)
        self._stops = StopStrings(prompt.asked.stop)

    def wrote(self, token: int) -> Text | None:
        """The piece that this token brings; None where it brings none yet."""
        self._left -= 1
        if token in self._ends:
            return self._end("stop", "")
        self._untold += 1
        piece = self._stops.push(self._detokenizer.push(token))
        if self._stops.stopped:
            return self._end("stop", piece, whole=False)
        if self._left == 0:
            return self._end("length", piece)
        return self._told(piece, None) if piece else None

    def _end(self, finish: str, piece: str, *, whole: bool = True) -> Text:
        self.ended = True
        if whole:
            piece += self._stops.push(self._detokenizer.rest())
            # An unfinished character at the end may complete a stop text too.
            piece += "" if self._stops.stopped else self._stops.rest()
            finish = "stop" if self._stops.stopped else finish
        return self._told(piece, finish)

    def _told(self, piece: str, finish: str | None) -> Text:
        tokens, self._untold = self._untold, 0
        return Text(
            text=piece,
            tokens=tokens,
            prompt_tokens=len(self._item.data.ids),
            finish=finish,
            truncated=self._item.truncated,
        )


def _too_long(what: str, value: int, limit: int) -> Refused:
    return Refused(
        f"the text is too long for the model: {what}, the limit is {limit} tokens",
        kind=Refusal.UNPROCESSABLE,
        field="text",
        value=value,
        allowed=f"at most {limit} tokens, or parameters.truncate true",
    )


def _too_much(asked: int, most: int, because: str) -> Refused:
    return Refused(
        f"more tokens than {because}",
        kind=Refusal.UNPROCESSABLE,
        field="parameters.max_tokens",
        value=asked,
        allowed=f"1 to {most}",
    )


def _without_surrogates(text: str) -> str:
    # A lone surrogate has no UTF-8 form, and the tokenizer raises TypeError.
    return text.encode("utf-8", "ignore").decode("utf-8")
