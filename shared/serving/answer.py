"""The one port every face takes: `answer(request) -> response`, and `stream` for answers that come in pieces.

An edge passes its router, a replica its engine, the gateway its balancer: no face can go around routing or privacy.
A request has one or more items; a single input is a list of one. Items are texts for text models and one set of named
arrays (its own leading batch dimension included) for tensor models.
"""

from collections.abc import AsyncIterator, Mapping
from enum import StrEnum
from typing import Any, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class Where(StrEnum):
    """Where an answer was computed."""

    LOCAL = "local"
    CLOUD = "cloud"
    CACHE = "cache"


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One inference request, whatever face it came through.

    `deadline` is on the monotonic clock of this process; None means the policy's. `priority` is OIP's: 0 the default, 1 the
    highest, larger lower. Exactly one of `texts` and `tensors` is set. `body_bytes` is what it weighs on the wire.
    """

    id: str
    tenant: str
    model: str
    version: str | None = None
    texts: tuple[str, ...] | None = None
    tensors: Mapping[str, Array] | None = None
    parameters: Mapping[str, object] = {}
    deadline: float | None = None
    priority: int = 0
    privacy: str | None = None
    trace: str | None = None
    body_bytes: int = 0

    @property
    def count(self) -> int:
        """How many items the request has."""
        return len(self.texts) if self.texts is not None else 1


class Label(msgspec.Struct, frozen=True, kw_only=True):
    """A class, its probability, and that of every class."""

    label: str
    score: float
    scores: dict[str, float]
    truncated: bool = False


class Entity(msgspec.Struct, frozen=True, kw_only=True):
    """A named entity; offsets in Unicode code points, `end` exclusive."""

    type: str
    start: int
    end: int
    text: str
    score: float


class Entities(msgspec.Struct, frozen=True, kw_only=True):
    """All entities of one text, in order."""

    entities: tuple[Entity, ...]
    truncated: bool = False


class Relation(msgspec.Struct, frozen=True, kw_only=True):
    """What was found under a path of types: `object` is of `type`; `subject`, what it was asked of, is None at the first level.

    Offsets in Unicode code points, `end` exclusive. `within`: what `subject` itself was asked of, outermost first. `score` is
    the probability of the whole path.
    """

    type: str
    subject: str | None
    object: str
    score: float
    object_start: int
    object_end: int
    subject_type: str | None = None
    subject_start: int | None = None
    subject_end: int | None = None
    within: tuple[Entity, ...] = ()


class Relations(msgspec.Struct, frozen=True, kw_only=True):
    """Everything extracted from one text, in the order of the schema.

    `truncated`: the text was cut, or so much was found that not all that follows from it was asked for.
    """

    relations: tuple[Relation, ...]
    truncated: bool = False


class Embedding(msgspec.Struct, frozen=True, kw_only=True):
    """One vector, float32[dim]; `tokens` is what the text cost."""

    embedding: Array
    tokens: int = 0
    truncated: bool = False


class Text(msgspec.Struct, frozen=True, kw_only=True):
    """Generated text; while streaming, the piece since the last one. `finish` is None until the end."""

    text: str
    tokens: int = 0
    prompt_tokens: int = 0
    finish: str | None = None
    truncated: bool = False


class Tensors(msgspec.Struct, frozen=True, kw_only=True):
    """Named output arrays of a tensor model."""

    outputs: dict[str, Array]


Result = Label | Entities | Relations | Embedding | Text | Tensors


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds waited in the queue and spent in the session; the largest of the request's items."""

    queue: float = 0.0
    compute: float = 0.0


class Response(msgspec.Struct, frozen=True, kw_only=True):
    """One result per item, in order, and where, by what and why it was computed."""

    id: str
    model: str
    version: str
    variant: str
    digest: str
    task: str
    results: tuple[Result, ...]
    where: Where
    why: str
    timing: Timing = Timing()
    hedged: bool = False


class Answer(Protocol):
    """The port. Errors are those of `shared.protocol.errors`."""

    async def answer(self, request: Request) -> Response:
        """The whole answer."""
        ...

    def stream(self, request: Request) -> AsyncIterator[Response]:
        """The answer in pieces: each response's results are what came since the last; the final one has `finish` set."""
        ...


def float32(values: object) -> Array:
    """`values` as a float32 array."""
    return np.asarray(values, dtype=np.float32)
