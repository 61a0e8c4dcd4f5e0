"""Models straight from disk, with no cloud: folders with a bundle in them, and plain `.onnx` files. Each passes its trial first."""

import asyncio
import os
import stat
from pathlib import Path
from typing import NamedTuple

import msgspec

from edge_agent.control.trials import Trials
from edge_agent.decide.variants import Device, Unfit, choose_variant
from shared.bundle.install import check_file
from shared.bundle.manifest import MANIFEST_FILE, Manifest, Variant, canonical, digest_of, parse_manifest
from shared.protocol.errors import Corrupt, Refusal, Refused
from shared.serving.plain_onnx import VARIANT, tried_onnx

ONNX = ".onnx"


class OnDisk(NamedTuple):
    """A model version that can be loaded: its manifest, where its files are, and the variant to run."""

    manifest: Manifest
    digest: str
    folder: Path
    variant: str


async def find(path: Path, device: Device, trials: Trials, *, threads: int) -> OnDisk:
    """What `path` holds, tried and fit to be loaded.

    Raises:
        Refused: neither a bundle nor an `.onnx` file, or no variant in it that this device can run.
        Corrupt: files that are not those of the manifest, or a program that did not pass its trial.
        Transient: it cannot be tried now.

    """
    if path.suffix == ONNX and await asyncio.to_thread(path.is_file):
        manifest = await tried_onnx(path, limits=trials.limits, threads=threads, trial=trials.trial)
        return OnDisk(manifest, digest_of(canonical(manifest)), path.parent, VARIANT)
    if not await asyncio.to_thread((path / MANIFEST_FILE).is_file):
        raise Refused(
            "nothing that can be served",
            kind=Refusal.NOT_FOUND,
            field="PATH",
            value=str(path),
            allowed=f"a folder with {MANIFEST_FILE}, or a file that ends in {ONNX}",
        )
    found = await asyncio.to_thread(_bundle, path, device)
    await trials.require(found.digest, found.variant, found.folder, threads=threads)
    return found


def _bundle(folder: Path, device: Device) -> OnDisk:
    data = (folder / MANIFEST_FILE).read_bytes()
    manifest = parse_manifest(data)
    _check_names(folder, manifest)
    # An installed bundle holds the files of one variant: what is not there is no choice.
    here = tuple(each for each in manifest.variants if all((folder / name).is_file() for name in each.files))
    if not here:
        raise Corrupt(f"{folder} holds the files of no variant of {manifest.name} {manifest.version}")
    chosen = choose_variant(_only(manifest, here), device)
    if isinstance(chosen, Unfit):
        raise Refused("no variant fits this device", kind=Refusal.UNSUPPORTED, field="PATH", value=chosen.detail)
    for entry in manifest.files_of(chosen):
        check_file(folder / entry.path, entry)
    return OnDisk(manifest, digest_of(data), folder, chosen)


def _check_names(folder: Path, manifest: Manifest) -> None:
    """A bundle is files its manifest names, and nothing else: no links, no folders, no dotfiles."""
    known = {MANIFEST_FILE, *(entry.path for entry in manifest.files)}
    for found in os.scandir(folder):
        if found.name not in known:
            raise Corrupt(f"{found.name} is not part of the bundle in {folder}", code="extra-file")
        how = found.stat(follow_symlinks=False)
        if not stat.S_ISREG(how.st_mode) or how.st_nlink != 1:
            raise Corrupt(f"{found.name} in {folder} is a link or no file", code="not-a-file")


def _only(manifest: Manifest, variants: tuple[Variant, ...]) -> Manifest:
    return msgspec.structs.replace(manifest, variants=variants)
