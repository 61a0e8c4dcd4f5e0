"""`fleetctl why`: the story of one request as its device tells it, or how often which reason sent requests where."""

import asyncio
import datetime as dt
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
import typer
from rich.console import Group
from rich.text import Text

from cloud_core.ctl.client import Client
from cloud_core.ctl.config import Target
from cloud_core.ctl.output import AsJson, say, table
from shared.protocol import names
from shared.protocol.errors import Corrupt
from shared.protocol.why import Prediction, Why

EDGE = "http://127.0.0.1:8090"
GOOD = frozenset({"ok"})
_MEANINGS = {
    "mode": "the policy's mode says so",
    "privacy": "tagged to stay on the device",
    "local-meets-deadline": "the device was to make the deadline",
    "local-saturated": "the device was to be late, the cloud was not",
    "local-absent": "the device does not serve the model",
    "local-faster": "the device was to be faster",
    "local-failed": "the device failed, and the cloud could still make it",
    "cloud-faster": "the cloud was to be faster",
    "cloud-saturated": "the cloud takes no more for now",
    "cloud-unreachable": "the breaker is open, or there is no cloud",
    "cloud-failed": "the cloud failed, and the device could still make it",
    "budget-exhausted": "the policy's cloud budget is spent",
    "retries-exhausted": "no second attempt is left in the retry budget",
    "policy-stale": "the control plane was not heard for longer than the lease",
    "both-late": "neither could make the deadline",
    "expired": "the deadline had passed",
    "confident": "the device is sure enough",
    "low-confidence": "the device is unsure of its answer",
    "cache-hit": "the same was answered before",
    "nobody-answered": "a kept answer, since nobody gave one",
    "hedged": "the other place took longer than usual",
    "exercise": "one of the few that keep the way to the cloud known",
    "smaller-model": "a smaller model could make the deadline",
}
"""What people are told of a reason; one that is newer than this program is shown as it is."""


class Routed(msgspec.Struct, frozen=True):
    """Requests one reason sent to one place, since the device's agent started."""

    where: str
    reason: str
    requests: int


def why(
    context: typer.Context,
    request_id: Annotated[str | None, typer.Argument(help="X-Request-Id of the answer.")] = None,
    *,
    edge: Annotated[str, typer.Option(help="The device's HTTP address.")] = EDGE,
    summary: Annotated[bool, typer.Option("--summary", help="How often which reason sent requests where.")] = False,
    as_json: AsJson = False,
) -> None:
    """Why a request went where it went: what the device knew, what it decided, whom it asked, and how that ended."""
    if (request_id is None) != summary:
        raise typer.BadParameter("a request id, or --summary", ctx=context, param_hint="REQUEST_ID")
    # A device's own address takes no token, and is told none.
    target = Target(url=edge.rstrip("/"), token=None, file=Path())
    if request_id is None:
        counted = asyncio.run(_summary(target))
        say({"routes": counted}, _counted(counted), as_json=as_json)
        return
    document = asyncio.run(_story(target, names.checked("request id", request_id, field="REQUEST_ID")))
    say(document, None if as_json else shown(document), as_json=as_json)


def shown(document: dict[str, Any]) -> Group:
    """A story as people read it.

    Raises:
        Corrupt: it is not an edge's.

    """
    try:
        story = msgspec.convert(document, Why)
    except msgspec.ValidationError as error:
        raise Corrupt(f"the answer is no device's story: {error}") from error
    return Group(*(Text(line) for line in lines(story)))


def lines(story: Why) -> list[str]:
    """One fact a line, in the order in which things happened."""
    at = dt.datetime.fromtimestamp(story.at, tz=dt.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    version = f"@{story.version}" if story.version else ""
    policy = f", policy {story.policy_name} revision {story.policy_revision}" if story.policy_name else ""
    tagged = ", tagged to stay on the device" if story.private else ""
    told = [
        f"request   {story.request_id} at {at}",
        f"asked for {story.model}{version} within {_ms(story.deadline_ms)}{tagged}",
        f"rules     mode {story.mode}{policy}",
        f"device    {_device(story.predicted)}",
        f"cloud     {_cloud(story.predicted)}",
        f"decided   {_place(story.decision)}: {_because(story.reason)}",
    ]
    for each in story.attempts:
        span = f"from {_ms(each.after_ms)}, {_ms(each.ms)}"
        error = f" ({each.error})" if each.error else ""
        told.append(f"asked     {each.where}, {span}: {each.outcome}{error}; {_because(each.reason)}")
    answered = f"by {story.where}" if story.where and story.outcome in GOOD else "not answered"
    told.append(f"ended     {story.outcome}, {answered}")
    return told


def _device(known: Prediction) -> str:
    if known.local_wait_ms is None or known.local_compute_ms is None:
        return "was not asked for a prediction, or does not serve the model"
    return f"predicted {_ms(known.local_wait_ms)} of waiting and {_ms(known.local_compute_ms)} of computing"


def _cloud(known: Prediction) -> str:
    seen = "not measured yet" if known.cloud_ms is None else f"predicted {_ms(known.cloud_ms)}"
    facts = [seen, f"breaker {known.breaker or 'unknown'}{'' if known.cloud_permitted else ', not to be asked'}"]
    if known.cloud_announced_wait_ms:
        facts.append(f"announced {_ms(known.cloud_announced_wait_ms)} of waiting")
    if known.cloud_budget_left is not None:
        facts.append(f"{known.cloud_budget_left} left of the budget")
    if known.policy_age_s:
        facts.append(f"last heard {known.policy_age_s:.0f} s before")
    return ", ".join(facts)


def _place(decision: str) -> str:
    return "nobody" if decision == "none" else decision


def _because(reason: str) -> str:
    meaning = _MEANINGS.get(reason)
    return f"{reason} ({meaning})" if meaning else reason


def _ms(value: float) -> str:
    return f"{value:.3g} ms" if value < 1000 else f"{value / 1000:.3g} s"


def _counted(counted: tuple[Routed, ...]) -> Any:
    whole = sum(each.requests for each in counted)
    if not whole:
        return "no request was decided on since the agent started"
    rows = [
        (str(each.requests), f"{each.requests / whole:.1%}", _place(each.where), _because(each.reason))
        for each in counted
    ]
    return table("REQUESTS", "SHARE", "SENT TO", "BECAUSE", rows=rows)


async def _story(target: Target, request_id: str) -> dict[str, Any]:
    async with Client(target) as client:
        return await client.get(f"/v1/why/{quote(request_id, safe='')}", dict[str, Any])


async def _summary(target: Target) -> tuple[Routed, ...]:
    """From the device's own metrics (contract, section 8): `tideline_route_total{where,reason}`, the most frequent first."""
    async with Client(target) as client:
        metrics = await client.get("/metrics/json", dict[str, Any])
    try:
        samples = metrics["tideline_route"]["samples"]
        found = [
            Routed(each["labels"]["where"], each["labels"]["reason"], int(each["value"]))
            for each in samples
            if each["name"] == "tideline_route_total"
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise Corrupt(f"{target.url} tells nothing of routes: it is no device's address") from error
    return tuple(sorted(found, key=lambda each: (-each.requests, each.where, each.reason)))
