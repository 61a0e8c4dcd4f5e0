"""`fleetctl models import` and `models imports`: a model from a hub, a folder or an `.onnx` file, until it is a version.

Nothing is converted here: a local source's files go to the server in chunks, which does the rest whoever watches.
"""

import asyncio
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import msgspec
import typer
from rich.text import Text

from cloud_core.ctl.client import Client, path
from cloud_core.ctl.import_shown import ENDED, Import, error_of, import_grid, imports_table
from cloud_core.ctl.local_source import LocalSource, read_file, read_source
from cloud_core.ctl.output import AsJson, Exit, called, console, say
from cloud_core.ctl.progress import Steps, steps
from cloud_core.ctl.upload import upload
from cloud_core.importer.request import DEFAULT_VARIANTS, VARIANTS
from shared.bundle.chunks import chunks_of
from shared.protocol.errors import Overloaded, Refusal, Refused, Transient

HUB = "modelscope:"
LOOK_S = 0.5
PATIENCE_S = 120.0
"""How long a server that cannot be reached is waited for, while it works for us."""
UPLOADS = 3
"""How often what is missing is sent: an import that ends may take pieces along that another one shares."""


def import_(
    context: typer.Context,
    source: Annotated[
        str, typer.Argument(help="modelscope:<id> or modelscope:<id>@<revision>, a folder, or an .onnx file.")
    ],
    *,
    name: Annotated[str, typer.Option(help="The model.")],
    version: Annotated[str, typer.Option(help="Its new version, such as 1.0.0.")],
    variants: Annotated[str, typer.Option(help=f"Some of {','.join(VARIANTS)}.")] = ",".join(DEFAULT_VARIANTS),
    golden: Annotated[Path | None, typer.Option(help="A golden set, beside the source's own answers.")] = None,
    signature: Annotated[Path | None, typer.Option(help="Inputs, outputs and labels of an .onnx file.")] = None,
    accept_drift: Annotated[
        list[str] | None,
        typer.Option(help="variant=figure: take a variant that misses the bar with this figure; may be repeated."),
    ] = None,
    prune_heads: Annotated[float, typer.Option(help="Share of attention heads to remove.")] = 0.0,
    schema: Annotated[str | None, typer.Option(help="What an extraction looks for: JSON, or a file of it.")] = None,
    description: Annotated[str, typer.Option(help="For people.")] = "",
    detach: Annotated[bool, typer.Option("--detach", help="End once the server has it; it goes on there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Import a model and publish it as a version."""
    body: dict[str, Any] = {
        "model": name,
        "version": version,
        "source": source if source.startswith(HUB) else Path(source).resolve().name,
        "variants": [variant.strip() for variant in variants.split(",")],
        "accept_drift": _drifts(accept_drift or ()),
        "prune_heads": prune_heads,
        "schema": _schema(schema),
        "description": description,
    }
    asked = ""
    with steps(as_json=as_json) as shown:
        try:
            sent = _read(body, source, golden, signature, shown)

            async def work(client: Client) -> tuple[Import, msgspec.Raw]:
                nonlocal asked
                one, raw = await _asked(client, body, sent, shown)
                asked = one.id
                return (one, raw) if detach else await _watched(client, one.id, shown)

            one, raw = called(context, work)
        except KeyboardInterrupt:
            _interrupted(asked)
    _say_end(one, raw, as_json=as_json)


def imports(
    context: typer.Context,
    import_id: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="One import; the newest where absent.")
    ] = None,
    *,
    watch: Annotated[bool, typer.Option("--watch", help="Follow it to its end.")] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="End it.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="How many, newest first.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Show imports, one of them, or follow it."""
    if import_id is None:
        if watch or cancel:
            raise typer.BadParameter("needs the id of an import", param_hint="ID")
        found = called(context, lambda client: _newest(client, limit))
        say(
            found,
            imports_table([msgspec.convert(each, Import) for each in found]) if found else "no import",
            as_json=as_json,
        )
        return
    if watch:
        with steps(as_json=as_json) as shown:
            try:
                one, raw = called(context, lambda client: _watched(client, import_id, shown))
            except KeyboardInterrupt:
                _interrupted(import_id)
        _say_end(one, raw, as_json=as_json)
        return
    if cancel:
        called(context, lambda client: client.send("POST", path("imports", import_id, "cancel")))
    raw = called(context, lambda client: client.get(path("imports", import_id), msgspec.Raw))
    say(raw, import_grid(msgspec.json.decode(raw, type=Import)), as_json=as_json)


def _drifts(given: Sequence[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for each in given:
        variant, _, figure = each.partition("=")
        try:
            found[variant] = float(figure)
        except ValueError as error:
            raise typer.BadParameter(f"{each!r} is not variant=figure", param_hint="--accept-drift") from error
    return found


def _schema(given: str | None) -> str | None:
    if given is None or given.lstrip().startswith("{"):
        return given
    try:
        return Path(given).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"cannot be read: {error}", kind=Refusal.NOT_FOUND, field="--schema", value=given) from error


def _read(
    body: dict[str, Any], source: str, golden: Path | None, signature: Path | None, shown: Steps
) -> list[LocalSource]:
    """Everything local that the import needs, described in `body`."""
    sent = []
    if not source.startswith(HUB):
        shown.step("reading", detail=source)
        local = read_source(Path(source))
        if local.left_out:
            told = ", ".join(local.left_out)
            console(stderr=True).print(f"left out: {told}", markup=False, soft_wrap=True)
        body["files"] = local.files
        sent.append(local)
    for field, file in (("golden", golden), ("signature", signature)):
        if file is not None:
            local = read_file(file, option=f"--{field}")
            body[field] = local.files[0]
            sent.append(local)
    return sent


async def _asked(
    client: Client, body: Mapping[str, Any], sent: Sequence[LocalSource], shown: Steps
) -> tuple[Import, msgspec.Raw]:
    """The import, once everything it needs is there."""
    tries = UPLOADS
    while True:
        tries -= 1
        for local in sent:
            await upload(
                client,
                path("imports", "chunks"),
                chunks_of(local.files),
                local.read,
                lambda done, total: shown.bytes("uploading", done, total),
            )
        try:
            answer = await client.send("POST", path("imports"), body)
        except Refused as error:
            if error.code != "chunks-missing" or tries == 0:
                raise
        else:
            return msgspec.convert(answer, Import), msgspec.Raw(msgspec.json.encode(answer))


async def _watched(client: Client, import_id: str, shown: Steps) -> tuple[Import, msgspec.Raw]:
    """The import at its end; a server that is away for a while is waited for."""
    away_since: float | None = None
    while True:
        try:
            raw = await client.get(path("imports", import_id), msgspec.Raw)
        except (Transient, Overloaded) as error:
            away_since = away_since or time.monotonic()
            if time.monotonic() - away_since > PATIENCE_S:
                raise
            shown.step("waiting for the server", detail=error.message)
        else:
            away_since = None
            one = msgspec.json.decode(raw, type=Import)
            if one.state in ENDED:
                return one, raw
            shown.step(one.step or one.state.replace("_", " "), one.done, one.detail)
        await asyncio.sleep(LOOK_S)


async def _newest(client: Client, limit: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    async for item in client.pages(path("imports"), dict[str, Any]):
        found.append(item)
        if len(found) == limit:
            break
    return found


def _say_end(one: Import, raw: msgspec.Raw, *, as_json: bool) -> None:
    """How it ended, and the exit status that says so."""
    what = f"{one.model}@{one.version}"
    if one.state == "completed" and one.result is not None:
        told = f"imported {what} ({one.result['digest'][:12]}); fleetctl models show {one.model} {one.version}"
        # Such as a variant that nothing here could run.
        say(raw, Text("\n".join(filter(None, (told, one.detail)))), as_json=as_json)
        return
    if one.state not in ENDED:
        say(raw, f"importing {what}: fleetctl models imports {one.id} --watch", as_json=as_json)
        return
    say(raw, None, as_json=as_json)
    raise error_of(one)


def _interrupted(import_id: str) -> NoReturn:
    said = (
        f"the import goes on: fleetctl models imports {import_id} --watch follows it, --cancel ends it"
        if import_id
        else "nothing was imported; what was sent stays for a day, and the same command goes on from there"
    )
    console(stderr=True).print(f"fleetctl: {said}", markup=False, soft_wrap=True)
    sys.exit(Exit.FAILED)
