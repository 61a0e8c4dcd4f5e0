"""The gateway's `Answer`: balance, forward, try once more on a transport failure, all within the deadline.

Invariants:

* no more than two tries, the second on another replica where there is one, and never past the deadline;
* only a failure of the transport is tried again: a replica's own answer, whatever it says, is the answer;
* what a request was charged to a replica is given back however it ends, a cancelled client included;
* every request leaves one explanation and is counted once.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Set
from contextlib import AbstractContextManager, aclosing, contextmanager
from typing import Protocol

import msgspec

from cloud_core.decide import balance
from cloud_core.gateway.catalog import GatewayCatalog
from cloud_core.gateway.course import Course
from cloud_core.gateway.explanations import Attempt, Explanation, Explanations
from cloud_core.gateway.fleet import End, Fleet, Member
from cloud_core.gateway.metrics import GatewayMetrics
from shared.io.clock import Clock
from shared.protocol.errors import Corrupt, Overloaded, Refused, Transient, Unavailable
from shared.serving.answer import Request, Response
from shared.serving.catalog import pick
from shared.serving.metrics import OK
from shared.serving.metrics import outcome_of as failed_as

RETRY_AFTER_S = 1.0


class Forward(Protocol):
    """Sends a request to the replica at `url`. `Transient` with `UNREACHABLE` means that the transport failed."""

    async def answer(self, url: str, request: Request) -> Response:
        """The replica's whole answer."""
        ...

    def stream(self, url: str, request: Request) -> AsyncGenerator[Response, None]:
        """The replica's answer in pieces."""
        ...


class Balancer:
    """Implements `shared.serving.answer.Answer` over the fleet."""

    def __init__(
        self,
        fleet: Fleet,
        catalog: GatewayCatalog,
        forward: Forward,
        *,
        look_again: Callable[[], Awaitable[None]],
        explanations: Explanations,
        metrics: GatewayMetrics,
        clock: Clock,
        draw: Callable[[], float],
        default_deadline: float = 30.0,
    ) -> None:
        """`look_again` reads the table of replicas now; `default_deadline` is for requests without one, in seconds."""
        self._fleet = fleet
        self._catalog = catalog
        self._forward = forward
        self._look_again = look_again
        self._explanations = explanations
        self._metrics = metrics
        self._clock = clock
        self._draw = draw
        self._default_deadline = default_deadline

    async def answer(self, request: Request) -> Response:
        """The whole answer of one replica."""
        with self._course(request) as course:
            while True:
                charged = await self._next(course)
                try:
                    with charged as member:
                        async with course.within_deadline():
                            return await self._forward.answer(member.row.url, course.request)
                except Transient as error:
                    _give_up_unless(course.may_try_again(error), error)

    async def stream(self, request: Request) -> AsyncGenerator[Response, None]:
        """One replica's pieces; a failure after the first piece is the caller's to see."""
        with self._course(request) as course:
            begun = False
            while True:
                charged = await self._next(course)
                try:
                    with charged as member:
                        async with aclosing(self._forward.stream(member.row.url, course.request)) as pieces:
                            while (piece := await course.piece(pieces)) is not None:
                                begun = True
                                yield piece
                            return
                except Transient as error:
                    _give_up_unless(not begun and course.may_try_again(error), error)

    def _course(self, request: Request) -> Course:
        listed = pick(self._catalog.models(request.tenant), request.model, request.version)
        now = self._clock.monotonic()
        deadline = request.deadline if request.deadline is not None else now + self._default_deadline
        # The version is pinned here, so that a second try cannot be answered by another one.
        pinned = msgspec.structs.replace(request, version=listed.version, deadline=deadline)
        return Course(pinned, listed, deadline=deadline, clock=self._clock, done=self._done)

    async def _next(self, course: Course) -> AbstractContextManager[Member]:
        verdict = self._choose(course, course.tried)
        if isinstance(verdict, balance.NoReplica) and course.tried:
            # The only one may have come back, or come to serve elsewhere, since the table was read.
            await self._look_again()
            verdict = self._choose(course, frozenset())
        match verdict:
            case balance.Chosen():
                return self._charged(course, verdict)
            case balance.NoReplica():
                course.note(Attempt(replica=None, reason=verdict.reason, outstanding={}, outcome="none", seconds=0.0))
                raise Transient(
                    f"no replica can answer {course.request.model} {course.request.version}: {verdict.reason}",
                    why=Unavailable.NOT_READY,
                    retry_after=max(RETRY_AFTER_S, verdict.retry_after or 0.0),
                )

    def _choose(self, course: Course, tried: Set[str]) -> balance.Chosen | balance.NoReplica:
        wanted = balance.Served(course.request.tenant, course.request.model, course.listed.version)
        verdict = balance.choose(
            self._fleet.snapshot(),
            wanted=wanted,
            now=self._clock.monotonic(),
            u1=self._draw(),
            u2=self._draw(),
            tried=tried,
        )
        self._metrics.verdict(verdict.reason)
        return verdict

    @contextmanager
    def _charged(self, course: Course, chosen: balance.Chosen) -> Iterator[Member]:
        """Charge the request to the replica until the block ends, and learn from how it ends."""
        seen = {each.name: each.outstanding for each in self._fleet.snapshot()}
        began = self._clock.monotonic()
        member = self._fleet.sent(chosen.name, course.cost, now=began)
        course.tried |= {chosen.name}
        error: BaseException | None = None
        try:
            yield member
        except BaseException as raised:
            error = raised
            raise
        finally:
            now = self._clock.monotonic()
            self._fleet.ended(member, course.cost, _proof(error), now=now)
            course.note(
                Attempt(
                    replica=chosen.name,
                    reason=chosen.reason,
                    outstanding=seen,
                    outcome=outcome_of(error),
                    seconds=now - began,
                )
            )

    def _done(self, course: Course, error: BaseException | None) -> None:
        """The one place where a request is counted and explained."""
        outcome, seconds = outcome_of(error), self._clock.monotonic() - course.began
        at = self._clock.wall()
        self._metrics.request(course.listed.name, course.listed.version, outcome=outcome, seconds=seconds)
        self._catalog.count(course.listed, items=course.request.count, seconds=seconds, ok=error is None, at=at)
        self._explanations.keep(
            Explanation(
                request_id=course.request.id,
                tenant=course.request.tenant,
                model=course.listed.name,
                version=course.listed.version,
                at=at,
                cost=course.cost,
                deadline_in=course.deadline - course.began,
                outcome=outcome,
                attempts=tuple(course.attempts),
            )
        )


def _give_up_unless(again: bool, error: Transient) -> None:
    """Raise what the client is told: nothing of our replicas' addresses, but when to come back."""
    if again:
        return
    if error.why is Unavailable.UNREACHABLE:
        raise Transient("no replica answered", why=Unavailable.NOT_READY, retry_after=RETRY_AFTER_S) from error
    raise error


def _proof(error: BaseException | None) -> End:
    match error:
        case None | Refused() | Overloaded():
            return End.ANSWERED
        case Transient(why=Unavailable.UNREACHABLE) | Corrupt():
            return End.FAILED
        case Transient(why=Unavailable.NOT_READY | Unavailable.STORAGE):
            return End.ANSWERED
        case _:
            # A deadline that passed or a client that left says nothing about the replica.
            return End.ABANDONED


def outcome_of(error: BaseException | None) -> str:
    """The label a request or a try is counted by."""
    return OK if error is None else failed_as(error)
