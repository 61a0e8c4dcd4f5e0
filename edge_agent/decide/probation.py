"""Probation: may a generation that has just come into force stay? From what its new versions answered since.  Pure.

Each new version is held against the version of the same model that answered before it. A share of bad answers counts only beyond what
the version before it had, and speed only by the fastest answers of both: load and long texts make answers slower, never faster.
"""

from collections.abc import Mapping
from enum import StrEnum

import msgspec

from shared.protocol.desired import Generation

SHORTEST_S = 60.0
LONGEST_S = 600.0
ENOUGH = 100
"""Answers of each new version that end a probation before `LONGEST_S`."""
LEAST_BAD = 5
MOST_BAD = 0.1
"""Share of bad answers that is borne, whatever the version before had."""
WORSE = 3.0
"""How many times the share of the version before is borne."""
SLOWER = 5.0


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """How long a probation lasts, in seconds, and how many answers make it short."""

    shortest_s: float = SHORTEST_S
    longest_s: float = LONGEST_S
    enough: int = ENOUGH


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """What one version did: answers, failures that were its own, and the fewest seconds an answer was computed in.

    Of the answers, `checked` were looked at, and `odd` of those held a number that is none, or infinite.
    """

    answers: int = 0
    failures: int = 0
    checked: int = 0
    odd: int = 0
    fastest: float | None = None


class Suspect(msgspec.Struct, frozen=True, kw_only=True):
    """A version that is new in a generation: what its failure speaks against, and the version that answered before it."""

    name: str
    version: str
    subject: str
    before: str | None = None


class Reason(StrEnum):
    """Why a probation ended, or did not."""

    EARLY = "early"
    PROVED = "proved"
    NOTHING_AGAINST = "nothing-against"
    NOTHING_NEW = "nothing-new"
    FAILURES = "failures"
    NOT_FINITE = "not-finite"
    SLOW = "slow"


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """`stays` None: nobody can say yet. Where it does not stay: because of whom, and in words."""

    stays: bool | None
    reason: Reason
    suspect: Suspect | None = None
    error: str = ""


def suspects_of(new: Generation, before: Generation | None, subjects: Mapping[str, str]) -> tuple[Suspect, ...]:
    """The versions of `new` that are other bytes than `before` ran; none where there is nothing to go back to.

    `subjects`, by digest: what a failure of the variant that runs speaks against.
    """
    if before is None:
        return ()
    ran = {(model.digest, model.variant) for model in before.models}
    versions = {model.name: model.version for model in reversed(before.models)}
    return tuple(
        Suspect(
            name=model.name,
            version=model.version,
            subject=subjects[model.digest],
            before=versions.get(model.name),
        )
        for model in new.models
        if (model.digest, model.variant) not in ran and model.digest in subjects
    )


def judge(
    suspects: tuple[Suspect, ...],
    tallies: Mapping[tuple[str, str], Tally],
    *,
    seconds: float,
    terms: Terms = Terms(),  # noqa: B008 - a frozen value
) -> Verdict:
    """What becomes of a generation `seconds` after it came into force; `tallies` are by name and version."""
    if not suspects:
        return Verdict(stays=True, reason=Reason.NOTHING_NEW)
    for suspect in suspects:
        now = tallies.get((suspect.name, suspect.version), Tally())
        before = tallies.get((suspect.name, suspect.before or ""), Tally())
        found = _fault(now, before, enough=terms.enough)
        if found is not None:
            reason, error = found
            words = f"{suspect.name} {suspect.version}: {error}"
            return Verdict(stays=False, reason=reason, suspect=suspect, error=words)
    if seconds >= terms.longest_s:
        return Verdict(stays=True, reason=Reason.NOTHING_AGAINST)
    answered = [tallies.get((each.name, each.version), Tally()).answers for each in suspects]
    if seconds >= terms.shortest_s and all(count >= terms.enough for count in answered):
        return Verdict(stays=True, reason=Reason.PROVED)
    return Verdict(stays=None, reason=Reason.EARLY)


def _fault(now: Tally, before: Tally, *, enough: int) -> tuple[Reason, str] | None:
    total, total_before = now.answers + now.failures, before.answers + before.failures
    if _too_many(now.failures, total, before.failures, total_before):
        return Reason.FAILURES, f"{now.failures} of {total} requests failed"
    if _too_many(now.odd, now.checked, before.odd, before.checked):
        return Reason.NOT_FINITE, f"{now.odd} of {now.checked} answers hold numbers that are none or infinite"
    if not now.fastest or not before.fastest or min(now.answers, before.answers) < enough:
        return None
    if now.fastest > SLOWER * before.fastest:
        fastest, was = now.fastest * 1000, before.fastest * 1000
        return Reason.SLOW, f"its fastest answer took {fastest:.1f} ms, that of the version before it {was:.1f} ms"
    return None


def _too_many(bad: int, of: int, bad_before: int, of_before: int) -> bool:
    borne = max(MOST_BAD, WORSE * bad_before / of_before if of_before else 0.0)
    return bad >= LEAST_BAD and bad > borne * of
