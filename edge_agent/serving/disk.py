"""Models straight from disk, with no cloud: folders with a bundle in them, and plain `.onnx` files."""

import hashlib
from pathlib import Path
from typing import NamedTuple

import msgspec

from edge_agent.decide.variants import Device, Unfit, choose_variant
from shared.bundle.manifest import MANIFEST_FILE, Manifest, Variant, canonical, digest_of, parse_manifest
from shared.protocol.errors import Corrupt, Refusal, Refused
from shared.serving.plain_onnx import VARIANT, manifest_of_onnx

BLOCK = 1 << 20
ONNX = ".onnx"


class OnDisk(NamedTuple):
    """A model version that can be loaded: its manifest, where its files are, and the variant to run."""

    manifest: Manifest
    digest: str
    folder: Path
    variant: str


def find(path: Path, device: Device) -> OnDisk:
    """What `path` holds. Blocks: files of a bundle are hashed, a plain program is opened once for its inputs.

    Raises:
        Refused: neither a bundle nor an `.onnx` file, or no variant in it that this device can run.
        Corrupt: files that are not those of the manifest.

    """
    if path.suffix == ONNX and path.is_file():
        manifest = manifest_of_onnx(path)
        return OnDisk(manifest, digest_of(canonical(manifest)), path.parent, VARIANT)
    if (path / MANIFEST_FILE).is_file():
        return _bundle(path, device)
    raise Refused(
        "nothing that can be served",
        kind=Refusal.NOT_FOUND,
        field="PATH",
        value=str(path),
        allowed=f"a folder with {MANIFEST_FILE}, or a file that ends in {ONNX}",
    )


def _bundle(folder: Path, device: Device) -> OnDisk:
    data = (folder / MANIFEST_FILE).read_bytes()
    manifest = parse_manifest(data)
    # An installed bundle holds the files of one variant: what is not there is no choice.
    here = tuple(each for each in manifest.variants if all((folder / name).is_file() for name in each.files))
    if not here:
        raise Corrupt(f"{folder} holds the files of no variant of {manifest.name} {manifest.version}")
    chosen = choose_variant(_only(manifest, here), device)
    if isinstance(chosen, Unfit):
        raise Refused("no variant fits this device", kind=Refusal.UNSUPPORTED, field="PATH", value=chosen.detail)
    for entry in manifest.files_of(chosen):
        if _sha256(folder / entry.path) != entry.sha256:
            raise Corrupt(f"{folder / entry.path} is not the file of the manifest")
    return OnDisk(manifest, digest_of(data), folder, chosen)


def _only(manifest: Manifest, variants: tuple[Variant, ...]) -> Manifest:
    return msgspec.structs.replace(manifest, variants=variants)


def _sha256(path: Path) -> str:
    found = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                found.update(block)
    except OSError as error:
        raise Corrupt(f"{path} cannot be read: {error.strerror}") from error
    return found.hexdigest()
