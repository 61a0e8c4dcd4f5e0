"""Linear-chain CRF decoding, and entities from BIOES tags.

Score of a tag sequence: start[first] + sum of emissions + sum of transitions[from, to] + end[last]; the first of equal
scores wins, as numpy's argmax has it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from shared.protocol.errors import Corrupt
from shared.serving.answer import Array


class Crf(NamedTuple):
    """float32 parameters: `start` [K], `transitions` [K, K] (from, to), `end` [K]."""

    start: Array
    transitions: Array
    end: Array


class Span(NamedTuple):
    """An entity over places: `end` exclusive."""

    type: str
    start: int
    end: int


def read_crf(path: Path, tags: int) -> Crf:
    """The parameters in an `.npz` file.

    Raises:
        Corrupt: not such a file, or not for `tags` tags.

    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            crf = Crf(
                *(arrays[name].astype(np.float32) for name in ("start_transitions", "transitions", "end_transitions"))
            )
    except (OSError, KeyError, ValueError, EOFError) as error:
        raise Corrupt(f"{path.name} holds no CRF: {error}") from error
    if (crf.start.shape, crf.transitions.shape, crf.end.shape) != ((tags,), (tags, tags), (tags,)):
        raise Corrupt(f"{path.name} is not for {tags} tags")
    return crf


def viterbi(emissions: Array, lengths: Sequence[int], crf: Crf) -> list[list[int]]:
    """The best tags of each row.

    Args:
        emissions: float32 [rows, longest, tags]; what lies beyond a row's length is ignored.
        lengths: how many places each row has; 0 gives no tags.
        crf: the parameters.

    """
    rows, longest, _ = emissions.shape
    if longest == 0:
        return [[] for _ in lengths]
    ends = np.asarray(lengths)
    score = crf.start + emissions[:, 0]
    back = np.zeros(emissions.shape, dtype=np.int64)
    for place in range(1, longest):
        paths = score[:, :, np.newaxis] + crf.transitions + emissions[:, place, np.newaxis, :]
        back[:, place] = paths.argmax(axis=1)
        score = np.where((place < ends)[:, np.newaxis], paths.max(axis=1), score)
    last = (score + crf.end).argmax(axis=1)
    found: list[list[int]] = []
    for row in range(rows):
        tags = [int(last[row])] if lengths[row] else []
        for place in range(lengths[row] - 1, 0, -1):
            tags.append(int(back[row, place, tags[-1]]))
        found.append(tags[::-1])
    return found


def spans(tags: Sequence[str]) -> list[Span]:
    """Entities of a tag sequence such as `B-PER I-PER E-PER O S-LOC`, as ModelScope's pipeline reads it.

    B and S open an entity (closing an open one), I and E extend the open one or else open one, E and S close it; anything
    else leaves it as it is. BIO tags decode as well.
    """
    found: list[Span] = []
    opened: Span | None = None
    for place, tag in enumerate(tags):
        kind = tag[:1]
        if kind not in ("B", "I", "E", "S"):
            continue
        if opened is not None and kind in ("B", "S"):
            found.append(opened)
            opened = None
        opened = Span(tag[2:], place, place + 1) if opened is None else opened._replace(end=place + 1)
        if kind in ("E", "S"):
            found.append(opened)
            opened = None
    if opened is not None:
        found.append(opened)
    return found
