"""`fleetctl trust`: the tenant's TUF repository: what devices may install, and whose keys say so."""

import time
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Group
from securesystemslib.signer import Key

from cloud_core.ctl.client import Client, path
from cloud_core.ctl.output import AsJson, called, say, table
from cloud_core.trust.keys import KeyFolder
from cloud_core.trust.metadata import DAY_S, Wanted, named_in, targets_in
from cloud_core.trust.offline import Expiry, Held, Signed, rotated, signed_targets
from cloud_core.trust.wire import Documents, PublicKeys, TrustView, given
from shared.protocol.errors import Refusal, Refused
from shared.protocol.trust import ROLES, ROOT, SNAPSHOT, TARGETS, TIMESTAMP

cli = typer.Typer(no_args_is_help=True, help="What devices may install, and whose keys say so.")
Keys = Annotated[
    Path | None, typer.Option("--keys", help="Folder of keys on this machine: sign here, not on the control plane.")
]
RootDays = Annotated[int, typer.Option(min=1, help="How long a root signed here is good for.")]
TargetsDays = Annotated[int, typer.Option(min=1, help="How long targets signed here are good for.")]


@cli.command()
def status(context: typer.Context, *, as_json: AsJson = False) -> None:
    """Show versions, expiries, where keys are, and what waits for a signature."""
    _shown(called(context, lambda client: client.get(path("trust"), TrustView)), as_json=as_json)


@cli.command()
def init(
    context: typer.Context,
    *,
    keys: Keys = None,
    root_days: RootDays = 365,
    targets_days: TargetsDays = 90,
    as_json: AsJson = False,
) -> None:
    """Make the repository; with --keys, the keys of root and targets are made here, and the control plane's are given up."""

    async def work(client: Client) -> TrustView:
        view = msgspec.convert(await client.send("POST", path("trust")), TrustView)
        if keys is None:
            return view
        if not view.roles[ROOT].held:
            raise Refused(
                "root is signed elsewhere already",
                kind=Refusal.CONFLICT,
                field="--keys",
                allowed="fleetctl trust rotate with the folder that has its key",
            )
        held, expiry = await _held(client), _expiry(root_days, targets_days)
        return await _uploaded(client, rotated(held, KeyFolder(keys), (ROOT, TARGETS), {}, expiry))

    _shown(called(context, work), as_json=as_json)


@cli.command()
def rotate(
    context: typer.Context,
    roles: Annotated[list[str], typer.Argument(help=f"Of {', '.join(ROLES)}.", metavar="ROLE...")],
    *,
    keys: Keys = None,
    root_days: RootDays = 365,
    targets_days: TargetsDays = 90,
    as_json: AsJson = False,
) -> None:
    """Replace keys; devices follow, also those that were away meanwhile."""
    unknown = [role for role in roles if role not in ROLES]
    if unknown:
        raise Refused("no such role", field="ROLE", value=unknown[0], allowed=", ".join(ROLES))

    async def work(client: Client) -> TrustView:
        if keys is None:
            body = {"roles": roles}
            return msgspec.convert(await client.send("POST", path("trust", "rotate"), body), TrustView)
        online = await _online_keys(client, [role for role in roles if role in (SNAPSHOT, TIMESTAMP)])
        held, expiry = await _held(client), _expiry(root_days, targets_days)
        return await _uploaded(client, rotated(held, KeyFolder(keys), roles, online, expiry))

    _shown(called(context, work), as_json=as_json)


@cli.command()
def sign(
    context: typer.Context,
    *,
    keys: Annotated[Path, typer.Option("--keys", help="Folder that has the targets' keys.")],
    targets_days: TargetsDays = 90,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Sign here what devices may install: every version that is published now, and no other."""
    held = called(context, _held)
    named = frozenset[Wanted]() if held.targets is None else named_in(targets_in(held.targets).signed)
    for mark, some in (("+", held.wanted - named), ("-", named - held.wanted)):
        for one in sorted(some):
            typer.echo(f"{mark} {one.path} {one.digest}", err=True)
    if not yes:
        typer.confirm(f"Sign {len(held.wanted)} targets?", abort=True, err=True)
    made = signed_targets(held, KeyFolder(keys), _expiry(1, targets_days))
    _shown(called(context, lambda client: _uploaded(client, made)), as_json=as_json)


async def _held(client: Client) -> Held:
    found = await client.get(path("trust", "documents"), Documents)
    return Held(bytes(found.root), given(found.targets), frozenset(found.wanted))


async def _online_keys(client: Client, roles: list[str]) -> dict[str, Key]:
    if not roles:
        return {}
    made = msgspec.convert(await client.send("POST", path("trust", "keys"), {"roles": roles}), PublicKeys)
    return {role: Key.from_dict(made.ids[role], document) for role, document in made.keys.items()}


async def _uploaded(client: Client, made: Signed) -> TrustView:
    body: dict[str, Any] = {
        role: msgspec.Raw(data) for role, data in ((ROOT, made.root), (TARGETS, made.targets)) if data is not None
    }
    return msgspec.convert(await client.send("PUT", path("trust"), body), TrustView)


def _expiry(root_days: int, targets_days: int) -> Expiry:
    now = time.time()
    return Expiry(now + root_days * DAY_S, now + targets_days * DAY_S)


def _shown(view: TrustView, *, as_json: bool) -> None:
    now = time.time()
    rows = [
        (
            role,
            "-" if one.version is None else str(one.version),
            "-" if one.expires_at is None else f"{(one.expires_at - now) / DAY_S:.1f} days",
            "control plane" if one.held else "elsewhere",
            ", ".join(key[:16] for key in one.keys) + (f" ({one.threshold} needed)" if one.threshold > 1 else ""),
        )
        for role, one in view.roles.items()
    ]
    waiting = f", {len(view.unsigned)} wait for a signature: {', '.join(view.unsigned[:10])}" if view.unsigned else ""
    shown = Group(
        table("ROLE", "VERSION", "EXPIRES IN", "SIGNED BY", "KEYS", rows=rows), f"{view.targets} targets{waiting}"
    )
    say(view, shown, as_json=as_json)
