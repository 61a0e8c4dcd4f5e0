"""The probation of a generation that has just come into force: begun with it, judged by what it answers, ended durably.

Invariants: that it is on probation is durable before it answers; that it did not pass is durable before anything is done about it.
An agent that is started `CRASHES` times within one probation goes back as well: whoever dies of a model cannot judge it.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping

from edge_agent.control.state import AgentState
from edge_agent.decide.blame import CRASHES, subject
from edge_agent.decide.probation import Suspect, Tally, Terms, Verdict, judge, suspects_of
from shared.io.clock import Clock
from shared.io.logs import Log
from shared.protocol.desired import Generation, SignedGeneration
from shared.protocol.errors import Transient

LOOK_S = 5.0
"""Between two looks at a generation that is on probation."""


class Probation:
    """Owner of what is known of the generation on probation, if there is one."""

    def __init__(
        self,
        state: AgentState,
        *,
        tallies: Callable[[], Mapping[tuple[str, str], Tally]],
        forget: Callable[[str, str], None],
        clock: Clock,
        log: Log,
        terms: Terms = Terms(),  # noqa: B008 - a frozen value
    ) -> None:
        """`tallies` are what versions did, by name and version; `forget` begins one anew."""
        self._state = state
        self._tallies = tallies
        self._forget = forget
        self._clock = clock
        self._log = log
        self._terms = terms
        self._suspects: tuple[Suspect, ...] = ()
        self._since = 0.0

    @property
    def next_look(self) -> float | None:
        """Seconds until it is to be judged again; None where nothing is on probation."""
        return LOOK_S if self._suspects else None

    async def apply(
        self, signed: SignedGeneration, generation: Generation, before: Generation | None, variants: Mapping[str, str]
    ) -> None:
        """Record that `generation` answers from now on, on probation where it brings other versions than `before`.

        Raises:
            Transient: that could not be recorded.

        """
        subjects = {digest: subject(digest, variant) for digest, variant in variants.items()}
        suspects = suspects_of(generation, before, subjects)
        await asyncio.to_thread(self._state.apply, signed, [each.subject for each in suspects])
        self._begin(suspects)

    async def recover(self) -> None:
        """Count a start within a probation, before anything is loaded; too many of them end it. Blocks nobody.

        Raises:
            Transient: that could not be recorded.

        """
        error = f"the agent was started {CRASHES} times within its probation"
        if await asyncio.to_thread(self._state.began_on_probation, CRASHES, error):
            self._log.error("generation rolled back", error=error)

    async def resume(self, generation: Generation, before: Generation | None) -> None:
        """Go on with the probation of `generation`, which answers again after a start; it begins anew."""
        subjects = {each[:64]: each for each in await asyncio.to_thread(self._state.on_probation)}
        suspects = suspects_of(generation, before, subjects) if subjects else ()
        self._begin(suspects)
        if subjects and not suspects:
            # There is nothing to go back to any more.
            with contextlib.suppress(Transient):
                await asyncio.to_thread(self._state.commit)

    def verdict(self) -> Verdict:
        """Whether the generation that answers may stay."""
        seconds = self._clock.monotonic() - self._since
        return judge(self._suspects, self._tallies(), seconds=seconds, terms=self._terms)

    async def commit(self, verdict: Verdict) -> None:
        """Record that it stays.

        Raises:
            Transient: that could not be recorded; it is still on probation then.

        """
        await asyncio.to_thread(self._state.commit)
        self._log.info("probation passed", reason=verdict.reason.value)
        self._suspects = ()

    async def roll_back(self, verdict: Verdict) -> None:
        """Record that it does not, and because of whom.

        Raises:
            Transient: that could not be recorded; it is still on probation then.

        """
        subjects = [] if verdict.suspect is None else [verdict.suspect.subject]
        await asyncio.to_thread(self._state.roll_back, subjects, verdict.error)
        self._log.error("generation rolled back", reason=verdict.reason.value, error=verdict.error)
        self._suspects = ()

    def _begin(self, suspects: tuple[Suspect, ...]) -> None:
        self._suspects, self._since = suspects, self._clock.monotonic()
        for each in suspects:
            self._forget(each.name, each.version)
