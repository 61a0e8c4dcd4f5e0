"""`fleetctl models`: models and their versions; publishing a folder."""

import asyncio
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from cloud_core.ctl.client import Client, path
from cloud_core.ctl.output import AsJson, called, console, say, size_of, table
from cloud_core.models.publish import build_bundle
from shared.bundle.chunks import chunks_of
from shared.bundle.manifest import Chunk
from shared.bundle.store import ChunkStore
from shared.protocol.errors import Refused

cli = typer.Typer(no_args_is_help=True, help="Models and their versions.")
Name = Annotated[str, typer.Argument(help="The model.")]
PARALLEL = 4
"""Chunks on their way at the same time."""


@cli.command("list")
def list_(context: typer.Context, *, as_json: AsJson = False) -> None:
    """Show every model."""

    async def work(client: Client) -> list[dict[str, Any]]:
        return [item async for item in client.pages(path("models"), dict[str, Any])]

    found = called(context, work)
    rows = [(model["name"], ", ".join(model["versions"]) or "-", model["description"]) for model in found]
    say(found, table("MODEL", "VERSIONS", "DESCRIPTION", rows=rows) if rows else "no model", as_json=as_json)


@cli.command()
def show(context: typer.Context, name: Name, *, as_json: AsJson = False) -> None:
    """Show the versions of one model."""

    async def work(client: Client) -> list[dict[str, Any]]:
        return [item async for item in client.pages(path("models", name, "versions"), dict[str, Any])]

    found = called(context, work)
    rows = [
        (
            version["version"],
            version["task"],
            ", ".join(version["variants"]),
            size_of(version["size"]),
            version["digest"][:12],
            version["published_by"],
        )
        for version in found
    ]
    shown = table("VERSION", "TASK", "VARIANTS", "SIZE", "DIGEST", "PUBLISHED BY", rows=rows)
    say(found, shown if rows else "no version", as_json=as_json)


@cli.command()
def publish(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(help="A folder with model.json, or a bundle with manifest.json.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Publish a version: only chunks the server lacks are sent, so a broken upload goes on where it ended."""
    if not source.is_dir():
        raise Refused("not a folder", field="SOURCE", value=str(source), allowed="a folder with model.json")
    quiet = as_json or not console(stderr=True).is_terminal
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with (
        tempfile.TemporaryDirectory(prefix="fleetctl-") as folder,
        Progress(*columns, console=console(stderr=True), disable=quiet) as progress,
    ):
        store = ChunkStore(Path(folder))
        reading = progress.add_task("reading", total=None)
        manifest, data = build_bundle(source, store)
        progress.remove_task(reading)

        async def work(client: Client) -> Any:
            await _upload(client, store, chunks_of(manifest.files), progress)
            return await client.send("POST", path("models", manifest.name, "versions"), data)

        made = called(context, work)
    say(made, f"published {made['model']}@{made['version']} ({made['digest'][:12]})", as_json=as_json)


@cli.command()
def delete(
    context: typer.Context,
    name: Name,
    version: Annotated[str | None, typer.Argument(help="One version; without it the model, which has none.")] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Hide a version no group is assigned, or a model without versions."""
    where = path("models", name) if version is None else path("models", name, "versions", version)
    called(context, lambda client: client.send("DELETE", where))
    what = name if version is None else f"{name}@{version}"
    say({"deleted": what}, f"deleted {what}", as_json=as_json)


async def _upload(client: Client, store: ChunkStore, chunks: tuple[Chunk, ...], progress: Progress) -> None:
    asked = {"digests": [chunk.digest for chunk in chunks]}
    missing = set((await client.send("POST", path("chunks") + ":missing", asked))["missing"])
    wanted = [chunk for chunk in chunks if chunk.digest in missing]
    task = progress.add_task("uploading", total=sum(chunk.size for chunk in wanted))
    slots = asyncio.Semaphore(PARALLEL)

    async def upload(chunk: Chunk) -> None:
        async with slots:
            data = await asyncio.to_thread(store.get, chunk.digest)
            kind = {"Content-Type": "application/octet-stream"}
            await client.send("PUT", path("chunks", chunk.digest), data, headers=kind)
            progress.advance(task, chunk.size)

    await asyncio.gather(*(upload(chunk) for chunk in wanted))
