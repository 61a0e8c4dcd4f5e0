"""`fleetctl rollouts`: a version on its way to a group's devices, watched and steered."""

import asyncio
import time
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.table import Table

from cloud_core.ctl.client import Client, path
from cloud_core.ctl.output import AsJson, Exit, ago, called, say, state, table
from cloud_core.ctl.progress import Steps, steps
from cloud_core.decide.rollout_devices import COMPLETED
from cloud_core.decide.rollout_spec import OPEN, Approval, OnBad, State, Strategy

cli = typer.Typer(no_args_is_help=True, help="A version on its way to a group's devices, in waves, judged by evidence.")
Id = Annotated[str, typer.Argument(help="The rollout.")]
POLL_S = 1.0
STOPPED = frozenset({State.PAUSED.value, State.AWAITING_APPROVAL.value})
"""States in which only a person lets it go on."""


@cli.command()
def start(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="name@version or name@version/variant.")],
    *,
    to: Annotated[str, typer.Option(help="The group.")],
    strategy: Annotated[Strategy, typer.Option(help="In which waves.")] = Strategy.CANARY,
    wave: Annotated[list[str] | None, typer.Option(help="Own waves, such as 1, 5%, 100%; may be repeated.")] = None,
    per_minute: Annotated[float | None, typer.Option(help="Devices a minute, to begin with.")] = None,
    factor: Annotated[float, typer.Option(help="The rate grows by this for every ten devices that succeeded.")] = 1.0,
    window: Annotated[str | None, typer.Option(help="When devices may come, such as 22:00-05:30 (UTC).")] = None,
    soak: Annotated[float, typer.Option(help="Seconds each wave is watched once it is done.")] = 600.0,
    timeout: Annotated[float, typer.Option(help="Seconds a device may take while it is there.")] = 1800.0,
    retries: Annotated[int, typer.Option(help="Further attempts of a device that failed.")] = 1,
    backoff: Annotated[float, typer.Option(help="Seconds before the first further attempt, then doubled.")] = 60.0,
    approval: Annotated[Approval, typer.Option(help="What a person must approve.")] = Approval.NONE,
    on_bad: Annotated[OnBad, typer.Option(help="What a bad verdict does.")] = OnBad.ROLL_BACK,
    max_errors: Annotated[float, typer.Option(help="Share of completed devices that may fail.")] = 0.05,
    max_offline: Annotated[float, typer.Option(help="Share of a wave's devices that may be offline.")] = 0.2,
    needs_evidence: Annotated[
        bool, typer.Option("--needs-evidence", help="Wait until there are enough requests to judge by.")
    ] = False,
    priority: Annotated[int, typer.Option(help="The highest goes first where rollouts share devices.")] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and do nothing.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Stay until it ends or waits for a person.")] = False,
    as_json: AsJson = False,
) -> None:
    """Give a group's devices another version."""
    name, _, rest = model.partition("@")
    version, _, variant = rest.partition("/")
    if not name or not version:
        raise typer.BadParameter(f"{model!r} is not name@version or name@version/variant", param_hint="MODEL")
    body = {
        "model": name, "version": version, "variant": variant or None, "group": to, "strategy": strategy.value,
        "waves": wave or None, "window": window, "soak_s": soak, "timeout_s": timeout, "retries": retries,
        "backoff_s": backoff, "approval": approval.value, "on_bad": on_bad.value, "priority": priority,
        "rate": None if per_minute is None else {"base_per_minute": per_minute, "factor": factor},
        "gates": {"max_error_share": max_errors, "max_offline_share": max_offline},
        "needs_evidence": needs_evidence,
    }  # fmt: skip
    if dry_run:
        found = called(context, lambda client: client.send("POST", path("rollouts", "plan"), body))
        say(found, _plan(found), as_json=as_json)
        return
    if watch:
        made = called(context, lambda client: _started_and_watched(client, body, as_json=as_json))
        _ended(made, as_json=as_json)
        return
    made = called(context, lambda client: client.send("POST", path("rollouts"), body))
    say(made, f"rollout {made['id']}: {_what(made)} to {to}, {made['state']}", as_json=as_json)


@cli.command("list")
def list_(context: typer.Context, *, as_json: AsJson = False) -> None:
    """Show every rollout, newest first."""

    async def work(client: Client) -> list[dict[str, Any]]:
        return [item async for item in client.pages(path("rollouts"), dict[str, Any])]

    found = called(context, work)
    now = time.time()
    rows = [
        (
            one["id"],
            _what(one),
            one["group"],
            state(one["state"]),
            one["why"],
            _wave(one),
            _devices(one),
            ago(one["created_at"], now),
        )
        for one in found
    ]
    columns = ("ROLLOUT", "VERSION", "GROUP", "STATE", "WHY", "WAVE", "DEVICES", "STARTED")
    say(found, table(*columns, rows=rows) if rows else "no rollout", as_json=as_json)


@cli.command()
def show(context: typer.Context, rollout: Id, *, as_json: AsJson = False) -> None:
    """Show one rollout, its devices and its verdicts with the numbers that decided."""

    async def work(client: Client) -> dict[str, Any]:
        found = await client.get(path("rollouts", rollout), dict[str, Any])
        members = [one async for one in client.pages(path("rollouts", rollout, "devices"), dict[str, Any])]
        return {**found, "members": members}

    found = called(context, work)
    say(found, _whole(found), as_json=as_json)


@cli.command()
def watch(context: typer.Context, rollout: Id, *, as_json: AsJson = False) -> None:
    """Follow a rollout until it ends or waits for a person. Exit status 0 only where it succeeded."""
    _ended(called(context, lambda client: _watched(client, rollout, as_json=as_json)), as_json=as_json)


def _act(action: str, says: str) -> None:
    def act(context: typer.Context, rollout: Id, *, as_json: AsJson = False) -> None:
        made = called(context, lambda client: client.send("POST", path("rollouts", rollout, action)))
        say(made, f"rollout {rollout}: {made['state']}", as_json=as_json)

    act.__doc__ = says
    cli.command(action)(act)


_act("pause", "No device more, until it is resumed.")
_act("resume", "Go on; after a bad verdict you answer for this wave, which is not judged again.")
_act("approve", "Let the wave begin that waits for it.")
_act("abort", "End it: devices keep what they have.")
_act("rollback", "End it: devices get what they had before.")


async def _started_and_watched(client: Client, body: dict[str, Any], *, as_json: bool) -> dict[str, Any]:
    made = await client.send("POST", path("rollouts"), body)
    return await _watched(client, made["id"], as_json=as_json)


async def _watched(client: Client, rollout: str, *, as_json: bool) -> dict[str, Any]:
    with steps(as_json=as_json) as shown:
        while True:
            found = await client.get(path("rollouts", rollout), dict[str, Any])
            _progress(shown, found)
            if found["state"] not in OPEN or found["state"] in STOPPED:
                return found
            await asyncio.sleep(POLL_S)


def _progress(shown: Steps, found: dict[str, Any]) -> None:
    done = sum(found["devices"].get(each.value, 0) for each in COMPLETED)
    came = max(1, sum(found["devices"].values()))
    shown.step(f"{found['state']}, wave {_wave(found)}: {found['why']}", done / came, _devices(found))


def _ended(found: dict[str, Any], *, as_json: bool) -> None:
    say(found, f"rollout {found['id']}: {found['state']} ({found['why']})", as_json=as_json)
    if found["state"] != State.SUCCEEDED.value:
        raise typer.Exit(Exit.FAILED)


def _what(one: dict[str, Any]) -> str:
    return f"{one['model']}@{one['version']}"


def _wave(one: dict[str, Any]) -> str:
    return f"{one['wave'] + 1} of {len(one['waves'])} ({one['waves'][one['wave']]})"


def _devices(one: dict[str, Any]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(one["devices"].items())) or "none yet"


def _plan(found: dict[str, Any]) -> Group:
    rows = [
        (
            wave["wave"],
            str(len(wave["devices"])),
            ", ".join(wave["devices"][:10]) + (" …" * (len(wave["devices"]) > 10)),
        )
        for wave in found["waves"]
    ]
    parts: list[Table | str] = [f"{found['fleet']} devices", table("WAVE", "DEVICES", "", rows=rows)]
    if found["offline"]:
        parts.append(f"offline, they come last: {', '.join(found['offline'])}")
    parts += [f"{one['device']} is left out: {one['why']}" for one in found["unfit"]]
    parts += [f"{one['device']} is left out: group {one['why']} decides there" for one in found["overruled"]]
    return Group(*parts)


def _whole(found: dict[str, Any]) -> Group:
    now = time.time()
    about = f"{_what(found)} to {found['group']}: {found['state']} ({found['why']}), wave {_wave(found)}"
    members = [
        (
            one["device"],
            str(one["wave"] + 1),
            state(one["state"]),
            one["base"] or "-",
            str(one["attempts"]),
            one["error"],
        )
        for one in found["members"]
    ]
    parts: list[Table | str] = [about, table("DEVICE", "WAVE", "STATE", "BEFORE", "ATTEMPTS", "ERROR", rows=members)]
    for verdict in found["verdicts"]:
        numbers = ", ".join(f"{name} {value:g}" for name, value in verdict["numbers"].items() if value)
        head = f"wave {verdict['wave'] + 1}: {verdict['decision']} ({verdict['why']}), {ago(verdict['at'], now)}; {numbers}"
        rows = [
            (
                check["name"],
                check["outcome"],
                *(_number(check[name]) for name in ("base", "candidate", "difference", "limit", "chance")),
                f"{check['base_count']} / {check['candidate_count']}",
            )
            for check in verdict["checks"]
        ]
        columns = ("CHECK", "OUTCOME", "BEFORE", "NOW", "DIFFERENCE", "LIMIT", "CHANCE", "REQUESTS")
        parts += [head, *([table(*columns, rows=rows)] if rows else [])]
    return Group(*parts)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
