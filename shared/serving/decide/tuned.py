"""What a tuning run found, as it is kept and told: the record of one version on one kind of machine. Pure."""

import hashlib
from collections.abc import Iterable, Sequence
from statistics import median

import msgspec

from shared.serving.arrangement import Arrangement
from shared.serving.decide.scoring import score
from shared.serving.decide.tuning import Finish, Progress, Why
from shared.serving.decide.ways import Space, Stage, Way


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What a measurement holds for: the processor's model and features, the cores there are, and the runtimes' versions by name."""

    machine: str
    model: str
    features: tuple[str, ...]
    cores: int
    runtimes: dict[str, str]

    @property
    def key(self) -> str:
        """Equal where measurements hold for both."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()[:16]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One way in one stage: how often it was measured, median seconds by requests at once, and why it is out where it is.

    `chosen`: it won its stage.
    """

    stage: Stage
    way: Way
    rounds: int = 0
    seconds: dict[int, float] = {}
    score: float | None = None
    out: str = ""
    detail: str = ""
    chosen: bool = False


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What was found for the version of `digest`. `way` None: nothing to be recommended, for `reason`. `at` in Unix seconds."""

    digest: str
    name: str
    version: str
    machine: Machine
    space: Space
    way: Way | None
    reason: Why
    rows: tuple[Row, ...]
    at: float
    spent: float

    @property
    def best(self) -> Row | None:
        """The last measurement of what was chosen."""
        return next((row for row in reversed(self.rows) if row.chosen), None)


def rows_of(progress: Progress, finish: Finish) -> tuple[Row, ...]:
    """Every way that was measured, or is out, by stage and in the order in which it first came."""
    found: list[Row] = []
    for stage in Stage:
        ways = dict.fromkeys(each.way for each in progress.samples if each.stage is stage)
        for way in ways:
            rounds = [each.seconds for each in progress.samples if (each.stage, each.way) == (stage, way)]
            found.append(
                Row(
                    stage=stage,
                    way=way,
                    rounds=len(rounds),
                    seconds={
                        n: median(each) for n, each in zip(progress.bursts, zip(*rounds, strict=True), strict=True)
                    },
                    score=median(score(each) for each in rounds),
                )
            )
    last = max((i for i, row in enumerate(found) if row.way == finish.way), default=None)
    if last is not None:
        found[last] = msgspec.structs.replace(found[last], chosen=True)
    out = [Row(stage=Stage.PROGRAM, way=each.way, out=each.code, detail=each.detail) for each in progress.out]
    return (*found, *out)


def holds(record: Record, space: Space) -> bool:
    """Whether a record answers what a run through `space` would ask: the same choice, or a wider one with an answer that is in it."""
    asked, there = record.space, space.variants
    same = (asked.cores, asked.lanes, asked.threads) == (space.cores, space.lanes, space.threads)
    if not same or not there <= asked.variants or (space.spinning and not asked.spinning):
        return False
    if record.way is None:
        return there == asked.variants
    return record.way.variant in there and (space.spinning or not record.way.arrangement.spinning)


def found_in(records: Iterable[Record], digest: str, machine: Machine, space: Space) -> Record | None:
    """The newest record that answers; None where it is still to be measured."""
    fitting = [
        record for record in records if record.digest == digest and record.machine == machine and holds(record, space)
    ]
    return max(fitting, key=lambda record: record.at, default=None)


def kept_with(records: Sequence[Record], new: Record, *, most: int) -> tuple[Record, ...]:
    """`records` with `new` in the place of what asked the same; the newest `most` of them, oldest first."""
    others = [
        record
        for record in records
        if (record.digest, record.machine, record.space) != (new.digest, new.machine, new.space)
    ]
    return tuple(sorted((*others, new), key=lambda record: record.at)[-most:])


def arrangement_in(record: Record | None, variant: str) -> Arrangement | None:
    """How `variant` is to run by `record`; None where it says nothing of it."""
    return (
        record.way.arrangement
        if record is not None and record.way is not None and record.way.variant == variant
        else None
    )
