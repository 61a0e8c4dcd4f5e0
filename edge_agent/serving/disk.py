"""Models straight from disk, with no cloud: folders with a bundle in them, and plain `.onnx` files."""

import asyncio
import contextlib
import os
import stat
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import msgspec

from edge_agent.control.loading import Version
from edge_agent.control.subjects import Subject, subject_of
from edge_agent.control.trials import Trials
from edge_agent.decide.variants import Device, Unfit, choose_variant
from shared.bundle.install import check_file
from shared.bundle.manifest import MANIFEST_FILE, Manifest, Variant, canonical, digest_of, parse_manifest
from shared.protocol.errors import Corrupt, Refusal, Refused
from shared.serving.versions.plain_onnx import VARIANT, readable, tried_onnx

ONNX = ".onnx"


async def find(path: Path, device: Device, trials: Trials, advised: Mapping[str, str]) -> Version:
    """What `path` holds, fit to be loaded; `advised` are the variants that were measured best here, by digest.

    Raises:
        Refused: neither a bundle nor an `.onnx` file, or no variant in it that this device can run.
        Corrupt: files that are not those of the manifest, or a plain program that did not pass its trial.
        Transient: it cannot be tried now.

    """
    if await _is_plain(path):
        manifest = await tried_onnx(path, limits=trials.limits, trial=trials.trial)
        return Version(manifest, digest_of(canonical(manifest)), path.parent, VARIANT, tried=True)
    return await asyncio.to_thread(_bundle, path, device, advised)


@contextlib.asynccontextmanager
async def measurable(path: Path, device: Device, trials: Trials) -> AsyncIterator[Subject]:
    """What `path` holds, to be measured within the block: every variant in it that this device can run.

    Raises:
        Refused, Corrupt, Transient: as `find`.

    """
    if await _is_plain(path):
        manifest = await tried_onnx(path, limits=trials.limits, trial=trials.trial)
        with readable(manifest, path) as (folder, text):
            digest = digest_of(canonical(manifest))
            yield subject_of(manifest, digest, {VARIANT: folder}, device)._replace(text=text)
        return
    yield await asyncio.to_thread(_all_of, path, device)


async def _is_plain(path: Path) -> bool:
    """Whether it is a plain program and no bundle.

    Raises:
        Refused: it is neither.

    """
    if path.suffix == ONNX and await asyncio.to_thread(path.is_file):
        return True
    if not await asyncio.to_thread((path / MANIFEST_FILE).is_file):
        raise Refused(
            "nothing that can be served",
            kind=Refusal.NOT_FOUND,
            field="PATH",
            value=str(path),
            allowed=f"a folder with {MANIFEST_FILE}, or a file that ends in {ONNX}",
        )
    return False


def _bundle(folder: Path, device: Device, advised: Mapping[str, str]) -> Version:
    manifest, digest, here = _read(folder)
    chosen = choose_variant(msgspec.structs.replace(manifest, variants=here), device, advised=advised.get(digest))
    if isinstance(chosen, Unfit):
        raise Refused("no variant fits this device", kind=Refusal.UNSUPPORTED, field="PATH", value=chosen.detail)
    for entry in manifest.files_of(chosen):
        check_file(folder / entry.path, entry)
    return Version(manifest, digest, folder, chosen)


def _all_of(folder: Path, device: Device) -> Subject:
    manifest, digest, here = _read(folder)
    subject = subject_of(manifest, digest, {variant.name: folder for variant in here}, device)
    for entry in {entry.path: entry for each in subject.variants for entry in manifest.files_of(each.name)}.values():
        check_file(folder / entry.path, entry)
    return subject


def _read(folder: Path) -> tuple[Manifest, str, tuple[Variant, ...]]:
    """The manifest, its digest, and the variants whose files are there."""
    data = (folder / MANIFEST_FILE).read_bytes()
    manifest = parse_manifest(data)
    _check_names(folder, manifest)
    # An installed bundle holds the files of one variant: what is not there is no choice.
    here = tuple(each for each in manifest.variants if all((folder / name).is_file() for name in each.files))
    if not here:
        raise Corrupt(f"{folder} holds the files of no variant of {manifest.name} {manifest.version}")
    return manifest, digest_of(data), here


def _check_names(folder: Path, manifest: Manifest) -> None:
    """A bundle is files its manifest names, and nothing else: no links, no folders, no dotfiles."""
    known = {MANIFEST_FILE, *(entry.path for entry in manifest.files)}
    for found in os.scandir(folder):
        if found.name not in known:
            raise Corrupt(f"{found.name} is not part of the bundle in {folder}", code="extra-file")
        how = found.stat(follow_symlinks=False)
        if not stat.S_ISREG(how.st_mode) or how.st_nlink != 1:
            raise Corrupt(f"{found.name} in {folder} is a link or no file", code="not-a-file")
