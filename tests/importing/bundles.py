"""The fp32 bundle of a model folder, made by the importer's own steps up to the point where variants begin."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cloud_core.importer.architectures.choose import open_source
from cloud_core.importer.assemble import Assembly
from cloud_core.importer.export import export
from cloud_core.importer.forms import FILES, FP32, fp32_variant
from cloud_core.importer.opened import Opened
from cloud_core.importer.request import BUNDLE, ImportRequest
from cloud_core.importer.source import Source
from shared.bundle.manifest import Manifest
from tests.importing.served import Served


@dataclass(frozen=True)
class Bundle:
    """`source` is the folder it was made of; `difference` of the program from torch, in any number."""

    source: Path
    folder: Path
    opened: Opened
    manifest: Manifest
    served: Served
    difference: float


def request_for(folder: Path) -> ImportRequest:
    """A request with defaults."""
    return ImportRequest(name="model", version="1.0.0", said=folder.name, path=str(folder))


def bundle_of(make: Callable[[Path], Path], work: Path) -> Bundle:
    """Make the folder, open it, export it."""
    source = make(work / "source")
    request = request_for(source)
    opened = open_source(request, Source(path=source), work)
    assembly = Assembly(request, opened, work / BUNDLE)
    difference = export(opened, assembly.folder / FILES[FP32])
    assembly.changed(opened, FILES[FP32])
    manifest = assembly.manifest([fp32_variant()])
    return Bundle(source, assembly.folder, opened, manifest, Served(manifest, assembly.folder), difference)
