"""A batch of rows under way through a decoder: prompts padded on the left, and the keys and values of what was read already.

The program reads `input_ids`, `attention_mask` and `position_ids` (int64; [rows, new], [rows, past + new], [rows, new]) and
`past_key_values.{i}.key` and `.value` (float32 [rows, heads, past, head_size]), and gives `logits` [rows, new or 1, vocabulary]
and `present.{i}.key` and `.value`, grown by what is new. The arrays it gives are fed back as they are.
"""

from collections.abc import Sequence

import numpy as np

from shared.bundle.manifest import Generation
from shared.protocol.errors import Corrupt
from shared.serving.answer import Array
from shared.serving.tasks.task import Run

_FILL = 0
"""The token that pads; its place is masked, so any would do."""


class KvCache:
    """The rows that are still written, in the order of the prompts less those that were dropped."""

    def __init__(self, generation: Generation, prompts: Sequence[Sequence[int]]) -> None:
        """`prompts` are token ids, none empty."""
        rows, longest = len(prompts), max(len(prompt) for prompt in prompts)
        self._names = [f"{i}.{kind}" for i in range(generation.layers) for kind in ("key", "value")]
        empty = np.zeros((rows, generation.heads, 0, generation.head_size), dtype=np.float32)
        self._past: list[Array] = [empty] * len(self._names)
        self._new = np.full((rows, longest), _FILL, dtype=np.int64)
        self._mask = np.zeros((rows, longest), dtype=np.int64)
        for row, prompt in enumerate(prompts):
            self._new[row, longest - len(prompt) :] = prompt
            self._mask[row, longest - len(prompt) :] = 1
        # What is padded has position 0; nothing looks at it.
        self._positions = np.maximum(self._mask.cumsum(axis=1) - 1, 0)

    def advance(self, run: Run) -> Array:
        """Read the new tokens; the scores of what may follow, float32 [rows, vocabulary].

        Raises:
            Corrupt: the program does not give what a decoder gives.

        """
        feeds = {"input_ids": self._new, "attention_mask": self._mask, "position_ids": self._positions}
        outputs = run(
            feeds | {f"past_key_values.{name}": past for name, past in zip(self._names, self._past, strict=True)}
        )
        try:
            self._past = [outputs[f"present.{name}"] for name in self._names]
            logits: Array = outputs["logits"]
        except KeyError as error:
            raise Corrupt(f"the program has no output {error}") from error
        shape, total = self._past[0].shape if self._past else (), self._mask.shape[1]
        if shape[:1] + shape[2:3] != (len(self._new), total):
            raise Corrupt(f"the program's cache has shape {shape}, expected {len(self._new)} rows of {total}")
        if logits.ndim != 3 or len(logits) != len(self._new) or not logits.shape[1]:
            raise Corrupt(f"logits have shape {logits.shape}, expected ({len(self._new)}, 1 or more, vocabulary)")
        last: Array = logits[:, -1]
        # Single scores may be minus infinity: a token that is ruled out.
        if not np.isfinite(last.max(axis=1)).all():
            raise Corrupt("the program's scores are not numbers")
        return last

    def append(self, tokens: Sequence[int], rows: Sequence[int]) -> None:
        """What is read next: one token for each of `rows` (places of the last advance, in order); the others are dropped."""
        if len(rows) < len(self._new):
            # Columns that only a dropped row's longer prompt needed go with it.
            mask = self._mask[rows]
            begin = int(mask.any(axis=0).argmax())
            self._mask = mask[:, begin:]
            self._past = [np.ascontiguousarray(past[rows, :, begin:]) for past in self._past]
        self._positions = self._mask.sum(axis=1, keepdims=True)
        self._mask = np.concatenate((self._mask, np.ones((len(rows), 1), dtype=np.int64)), axis=1)
        self._new = np.asarray(tokens, dtype=np.int64)[:, None]
