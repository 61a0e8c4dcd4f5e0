"""A linear-chain CRF over BIOES tags: the training loss in torch, the decoding in numpy.

Scores follow the platform's run-time convention: start[tag] + sum of transitions[from, to] + emissions + end[tag].
Illegal transitions (an I- without its B-, an E- of another kind) hold `FORBIDDEN` and never learn, so that a decoded
path is always well formed.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

KINDS = ("PER", "LOC", "ORG")
TAGS = ("O", *(f"{place}-{kind}" for kind in KINDS for place in "BIES"))
FORBIDDEN = -1e4
Floats = NDArray[np.float32]


def follows(left: str, right: str) -> bool:
    """Whether tag `right` may come after tag `left`."""
    if left[0] in "BI":
        return right[0] in "IE" and right[2:] == left[2:]
    return right[0] in "OBS"


def legal_masks() -> tuple[Tensor, Tensor, Tensor]:
    """Booleans: which tags may start, which pairs may touch, which may end."""
    start = torch.tensor([tag[0] in "OBS" for tag in TAGS])
    pairs = torch.tensor([[follows(left, right) for right in TAGS] for left in TAGS])
    end = torch.tensor([tag[0] in "OES" for tag in TAGS])
    return start, pairs, end


class Crf(nn.Module):
    """Transition scores and the negative log likelihood of tag paths."""

    def __init__(self) -> None:
        super().__init__()
        count = len(TAGS)
        self.start = nn.Parameter(torch.zeros(count))
        self.transitions = nn.Parameter(torch.zeros(count, count))
        self.end = nn.Parameter(torch.zeros(count))
        for name, mask in zip(("may_start", "may_follow", "may_end"), legal_masks(), strict=True):
            self.register_buffer(name, mask, persistent=False)

    def scores(self) -> tuple[Tensor, Tensor, Tensor]:
        """Start, transition and end scores with the illegal ones forbidden."""
        return (
            self.start.masked_fill(~self.may_start, FORBIDDEN),
            self.transitions.masked_fill(~self.may_follow, FORBIDDEN),
            self.end.masked_fill(~self.may_end, FORBIDDEN),
        )

    def loss(self, emissions: Tensor, tags: Tensor, mask: Tensor) -> Tensor:
        """Mean negative log likelihood; mask [batch, length] is True on a prefix of at least one position."""
        start, transitions, end = self.scores()
        rows = torch.arange(tags.shape[0])
        last = mask.sum(dim=1) - 1
        picked = emissions.gather(2, tags.unsqueeze(2)).squeeze(2)
        steps = transitions[tags[:, :-1], tags[:, 1:]]
        path = (picked * mask).sum(dim=1) + (steps * mask[:, 1:]).sum(dim=1)
        path = path + start[tags[:, 0]] + end[tags[rows, last]]
        alpha = start + emissions[:, 0]
        for place in range(1, emissions.shape[1]):
            step = torch.logsumexp(alpha.unsqueeze(2) + transitions, dim=1) + emissions[:, place]
            alpha = torch.where(mask[:, place, None], step, alpha)
        total = torch.logsumexp(alpha + end, dim=1)
        return (total - path).mean()

    def arrays(self) -> dict[str, Floats]:
        """The content of crf.npz."""
        names = ("start_transitions", "transitions", "end_transitions")
        return {name: score.detach().numpy().copy() for name, score in zip(names, self.scores(), strict=True)}


def viterbi(emissions: Floats, crf: dict[str, Floats]) -> list[int]:
    """The best tag ids for emissions [length, tags] of real characters only; the first of equals wins."""
    if not len(emissions):
        return []
    score = crf["start_transitions"] + emissions[0]
    back: list[NDArray[np.intp]] = []
    for emission in emissions[1:]:
        moves = score[:, None] + crf["transitions"] + emission[None, :]
        back.append(moves.argmax(axis=0))
        score = moves.max(axis=0)
    best = int((score + crf["end_transitions"]).argmax())
    path = [best]
    for pointers in reversed(back):
        best = int(pointers[best])
        path.append(best)
    return path[::-1]


def spans(tags: list[int]) -> list[tuple[str, int, int]]:
    """(kind, start, end) of a well-formed tag path."""
    found, start = [], 0
    for place, tag in enumerate(tags):
        name = TAGS[tag]
        if name[0] in "BS":
            start = place
        if name[0] in "ES":
            found.append((name[2:], start, place + 1))
    return found


def encode_spans(length: int, entities: tuple[tuple[str, int, int], ...]) -> list[int]:
    """The tag ids of a text of `length` characters."""
    tags = [0] * length
    for kind, start, end in entities:
        if end - start == 1:
            tags[start] = TAGS.index(f"S-{kind}")
            continue
        tags[start:end] = [TAGS.index(f"I-{kind}")] * (end - start)
        tags[start] = TAGS.index(f"B-{kind}")
        tags[end - 1] = TAGS.index(f"E-{kind}")
    return tags
