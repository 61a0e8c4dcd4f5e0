"""A machine that is made up: how long every way takes on it, so that what a run finds can be held against what is true."""

import math

from shared.serving.decide.scoring import score
from shared.serving.decide.tuning import Alone, Finish, Left, Probe, Progress, Sample, advanced, answers, next_move


class MadeUp:
    """`seconds(way, n)`: how long `n` requests at once take. `noise(turn)` multiplies it; `out` says why a way cannot be used."""

    def __init__(self, seconds, *, noise=lambda turn: 1.0, out=lambda way: None, took=0.01):
        self.seconds = seconds
        self.noise = noise
        self.out = out
        self.took = took
        self.turn = 0
        self.moves = []

    def said(self, move):
        """What a process that measures would say."""
        self.turn += 1
        self.moves.append(move)
        if (why := self.out(move.way)) is not None:
            return Left(way=move.way, code=why, took=self.took)
        if isinstance(move, Probe):
            return Alone(way=move.way, seconds=self.seconds(move.way, 1) * self.noise(self.turn), took=self.took)
        each = tuple(self.seconds(move.way, n) * self.noise(self.turn) for n in move.bursts)
        return Sample(stage=move.stage, way=move.way, seconds=each, took=self.took)

    def run(self, space, progress=None, *, most=2000):
        """A whole run; every answer is one to what was asked."""
        progress = progress or Progress()
        for _ in range(most):
            move = next_move(space, progress)
            if isinstance(move, Finish):
                return progress, move
            said = self.said(move)
            assert answers(said, move)
            progress = advanced(progress, said)
        raise AssertionError("the run does not end")

    def score(self, way, bursts):
        """The true one."""
        return score([self.seconds(way, n) for n in bursts])


def laned(base, *, share=0.7, twice=None):
    """A machine on which `base` seconds of work are shared by threads (worse) and lanes (well, where there is work for them)."""

    def seconds(way, n):
        how = way.arrangement
        rows = min(how.rows or 32, -(-n // how.lanes))
        batches = -(-n // rows)
        one = base * (rows**0.9) / (how.threads**share)
        if twice is not None and twice(way):
            one *= 0.5
        return one * math.ceil(batches / how.lanes)

    return seconds
