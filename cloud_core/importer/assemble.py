"""The bundle's folder: files go in as they are made, the manifest last."""

from collections.abc import Sequence
from pathlib import Path

from cloud_core.importer import golden
from cloud_core.importer.opened import Opened
from cloud_core.importer.request import ImportRequest
from cloud_core.models.bundling import TEXT_INPUT, described, outputs_of, sealed, vector_space_of
from shared.bundle.manifest import MANIFEST_FILE, File, Manifest, TaskKind, Variant, digest_of
from shared.bundle.store import disk
from shared.io.durable import make_folder, write_durably

CARD = "CARD.md"


class Assembly:
    """One bundle on its way into `folder`, which is made."""

    def __init__(self, request: ImportRequest, opened: Opened, folder: Path) -> None:
        self.folder = folder
        self._request = request
        self._opened = opened
        self._entries: dict[str, File] = {}
        self._space: str | None = None
        with disk("making the bundle"):
            make_folder(folder)
        for name, data in opened.files.items():
            self.add(name, data)

    def add(self, name: str, data: bytes) -> None:
        """Write a file, or write it anew."""
        with disk(f"writing {name}"):
            write_durably(self.folder / name, data)
        self._entries.pop(name, None)

    def manifest(self, variants: Sequence[Variant]) -> Manifest:
        """What the folder holds, with these variants; files of other variants are not in it."""
        wanted = {path for variant in variants for path in variant.files} | set(self._opened.files)
        wanted |= {name for name in (golden.FILE, CARD) if (self.folder / name).exists()}
        opened, request = self._opened, self._request
        text = opened.task is not TaskKind.TENSOR
        return Manifest(
            name=request.name,
            version=request.version,
            task=opened.task,
            variants=tuple(variants),
            files=tuple(self._entry(name) for name in sorted(wanted)),
            inputs=opened.inputs or (TEXT_INPUT if text else ()),
            outputs=opened.outputs or outputs_of(opened.task, labels=opened.labels, dimension=opened.dimension),
            labels=opened.labels,
            processing=opened.processing,
            golden=golden.FILE if golden.FILE in wanted else None,
            source=self._source(wanted),
            vector_space=self._space,
        )

    def changed(self, opened: Opened, program: str) -> None:
        """The fp32 program was written, of what is opened now.

        Vectors of all variants live in its space: the others are the same weights, rounded.
        """
        self._opened = opened
        self._entries.pop(program, None)
        self._space = vector_space_of(
            opened.task, name=self._request.name, version=self._request.version, weights=self._entry(program).sha256
        )

    def seal(self, variants: Sequence[Variant]) -> str:
        """Write the manifest, which makes the folder a bundle, and drop what is not in it; its digest."""
        manifest, data = sealed(self.manifest(variants))
        named = {entry.path for entry in manifest.files}
        with disk("writing the manifest"):
            for file in self.folder.iterdir():
                if file.name not in named:
                    file.unlink()
            write_durably(self.folder / MANIFEST_FILE, data)
        return digest_of(data)

    def _entry(self, name: str) -> File:
        if name not in self._entries:
            self._entries[name] = described(self.folder / name)
        return self._entries[name]

    def _source(self, files: set[str]) -> dict[str, str]:
        about = {"said": self._request.said, "architecture": self._opened.architecture, **self._opened.about}
        return about | ({"card": CARD} if CARD in files else {})
