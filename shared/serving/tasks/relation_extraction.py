"""What a schema names, found in a text: entities and, where types are nested, relations (SiameseUIE's way of asking).

Level by level: every question of a level, of every text of the batch, is asked in as few runs as memory allows; what was
found leads to the questions of the next level.
"""

import math
from collections.abc import Generator, Mapping, Sequence, Set

import msgspec

from shared.bundle.manifest import Extraction
from shared.protocol.errors import Corrupt, Refusal, Refused
from shared.serving.answer import Result
from shared.serving.tasks.encoding import Encoder, text_of, truncate_of
from shared.serving.tasks.extraction_schema import DEFAULT, Schema, parse_schema
from shared.serving.tasks.extraction_search import Hop, Search, hops
from shared.serving.tasks.hinted_rows import Logits, Passage, Row, feeds_of, logits_of, passage, runs, windows_of
from shared.serving.tasks.task import Prepared, Run
from shared.serving.tasks.windows import MOST

MOST_ROWS = 1024
"""Rows (a question, asked of a window) of one text over all levels. More at the first level is refused, later not asked."""
RUN_TOKENS = 4096
"""Padded tokens of one run, or those of the batch as it was formed."""
FIELD = "parameters.schema"
_SPARE = 8
"""Code points per token that are looked at: blanks and long words give fewer tokens than code points."""
_HINT = 12
"""About how many tokens a hint has."""


class Sought(msgspec.Struct, frozen=True, kw_only=True):
    """A text, and what is looked for in it."""

    passage: Passage
    schema: Schema


class RelationExtraction:
    """`extraction` as in the manifest; `parameters.schema` of a request overrides its schema."""

    name = "relation-extraction"

    def __init__(self, encoder: Encoder, extraction: Extraction) -> None:
        if not (
            0 < extraction.stride <= extraction.window and 0 < extraction.threshold < 1 and extraction.hint_length > 8
        ):
            raise Corrupt(f"no extraction can be done with {extraction}")
        self._encoder = encoder
        self._extraction = extraction
        self._limit = math.log(extraction.threshold / (1 - extraction.threshold))
        self._longest = (MOST - 1) * extraction.stride + extraction.window
        try:
            self._schema = parse_schema(extraction.schema or DEFAULT, field="processing.extraction.schema")
        except Refused as error:
            raise Corrupt(error.message) from error

    def estimate(self, item: object, parameters: Mapping[str, object]) -> int:
        """Rows of the first level, one token per code point."""
        try:
            types = len(self._schema_of(parameters))
        except Refused:
            types = 1
        tokens = min(len(item) + 2, self._longest) if isinstance(item, str) else self._extraction.window
        rows = windows_of(tokens, self._extraction) * types
        return rows * (min(tokens, self._extraction.window) + _HINT)

    def prepare(self, item: object, parameters: Mapping[str, object]) -> Prepared:
        """Tokens of the text in windows; refused when empty, of too many windows, or too much for what is looked for."""
        text, truncate, schema = text_of(item), truncate_of(parameters), self._schema_of(parameters)
        ids, offsets = self._encoder.located(text, most=self._longest * _SPARE)
        cut = len(ids) > self._longest or len(text) > self._longest * _SPARE
        if cut and not truncate:
            raise self._too_long(len(ids))
        if len(ids) > self._longest:
            ids, offsets = [*ids[: self._longest - 1], ids[-1]], [*offsets[: self._longest - 1], offsets[-1]]
        found = passage(text, ids, offsets, self._extraction)
        rows = len(found.windows) * len(schema)
        if rows > MOST_ROWS:
            raise Refused(
                "too much to look for in so long a text",
                kind=Refusal.UNPROCESSABLE,
                field=FIELD,
                value=f"{len(schema)} types in {len(found.windows)} windows",
                allowed=f"at most {MOST_ROWS} types times windows of {self._extraction.window} tokens",
            )
        hint = max(len(self._hint(f"{name}: ")) for name in schema)
        start, end = found.windows[0]
        sought = Sought(passage=found, schema=schema)
        return Prepared(tokens=end - start + hint, rows=rows, data=sought, truncated=cut, parameters=parameters)

    def steps(self, run: Run, batch: Sequence[Prepared]) -> Generator[Sequence[Result | None], Set[int] | None, None]:
        """A step after every run; a text's result with the run that answers its last question."""
        passages = [item.data.passage for item in batch]
        searches = [
            Search(item.data.passage.text, item.data.schema, most=MOST_ROWS // len(item.data.passage.windows))
            for item in batch
        ]
        padded = sum(item.rows for item in batch) * max(item.tokens for item in batch) if len(batch) > 1 else 0
        asked = set(range(len(batch)))
        while asked:
            logits = {text: [Logits(len(passages[text].ids)) for _ in searches[text].open] for text in asked}
            rows = [row for text in sorted(asked) for row in self._rows(text, searches[text], passages[text])]
            for chunk in runs(rows, passages, padded=max(RUN_TOKENS, padded)):
                if chunk[0] is not rows[0]:
                    asked -= (yield [None] * len(batch)) or set()
                self._ask(run, [row for row in chunk if row.text in asked], passages, logits)
            ready: list[Result | None] = [None] * len(batch)
            for text in sorted(asked):
                search, found = searches[text], passages[text]
                search.answer(
                    [self._hops(q.type, found, each) for q, each in zip(search.open, logits[text], strict=True)]
                )
                if not search.open:
                    asked.discard(text)
                    ready[text] = search.relations(truncated=batch[text].truncated)
            asked -= (yield ready) or set()

    def _rows(self, text: int, search: Search, passage: Passage) -> list[Row]:
        hints = [self._hint(question.hint) for question in search.open]
        windows = range(len(passage.windows))
        return [Row(text, window, number, hint) for window in windows for number, hint in enumerate(hints)]

    def _ask(
        self, run: Run, rows: Sequence[Row], passages: Sequence[Passage], logits: Mapping[int, list[Logits]]
    ) -> None:
        if not rows:
            return
        feeds = feeds_of(rows, passages)
        heads, tails = logits_of(run(feeds), len(rows), feeds["input_ids"].shape[1])
        for number, row in enumerate(rows):
            start, end = passages[row.text].windows[row.window]
            logits[row.text][row.question].take(start, end, heads[number], tails[number])

    def _hops(self, type: str, passage: Passage, logits: Logits) -> list[Hop]:
        return hops(type, passage.offsets, logits.heads, logits.tails, threshold=self._limit)

    def _hint(self, hint: str) -> tuple[int, ...]:
        ids, _ = self._encoder.located(hint, most=len(hint))
        most = self._extraction.hint_length
        if len(ids) > most:
            # The end holds what is asked for; what falls out is of the middle of what it is asked of.
            ids = [*ids[: most // 2], *ids[most // 2 - most :]]
        return tuple(ids)

    def _schema_of(self, parameters: Mapping[str, object]) -> Schema:
        given = parameters.get("schema")
        return self._schema if given is None else parse_schema(given, field=FIELD)

    def _too_long(self, tokens: int) -> Refused:
        limit = f"{self._longest} tokens ({MOST} windows of {self._extraction.window})"
        return Refused(
            f"the text is too long for the model: over {min(tokens, self._longest)} tokens, the limit is {limit}",
            kind=Refusal.UNPROCESSABLE,
            field="text",
            value=tokens,
            allowed=f"at most {limit}, or parameters.truncate true",
        )
