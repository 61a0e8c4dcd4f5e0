"""`fleetctl models diff A B`: how many bytes an update from one version to another moves to a device."""

from typing import Annotated, Any

import msgspec
import typer

from cloud_core.ctl.card import VersionDetail
from cloud_core.ctl.client import Client, path
from cloud_core.ctl.output import AsJson, called, say, size_of, table
from cloud_core.decide.moved import Moved, moved


def diff(
    context: typer.Context,
    older: Annotated[str, typer.Argument(metavar="A", help="What devices have: name@version.")],
    newer: Annotated[str, typer.Argument(metavar="B", help="What they get: name@version.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Show what an update from A to B moves to a device, variant by variant: the chunks of B that A lacks."""
    places = [_place(older, "A"), _place(newer, "B")]

    async def work(client: Client) -> list[VersionDetail]:
        return [await client.get(place, VersionDetail) for place in places]

    before, after = called(context, work)
    found = moved(before.manifest, after.manifest)
    shown = table("VARIANT", "SIZE", "MOVES", "SHARE", "CHUNKS", rows=[_row(one) for one in found])
    value: dict[str, Any] = {"from": older, "to": newer, "variants": [_json(one) for one in found]}
    say(value, shown, as_json=as_json)


def _place(text: str, hint: str) -> str:
    name, at, version = text.partition("@")
    if not (name and at and version):
        raise typer.BadParameter(f"{text!r} is not name@version", param_hint=hint)
    return path("models", name, "versions", version)


def _row(one: Moved) -> tuple[str, ...]:
    share = f"{one.share:.1%}" if one.known else "new"
    return one.variant, size_of(one.size), size_of(one.moved), share, f"{one.moved_chunks} of {one.chunks}"


def _json(one: Moved) -> dict[str, Any]:
    return msgspec.structs.asdict(one) | {"share": round(one.share, 6)}
