"""The committed bundles of our own training are what the importer makes of their committed sources; measurements excepted."""

import msgspec
import pytest

from cloud_core.importer.card import card_of
from cloud_core.models.shipped import shipped_models
from examples.shipped_models import release
from shared.bundle.manifest import MANIFEST_FILE, Manifest, Requirements, canonical, parse_manifest
from shared.serving.versions.golden import read_golden

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
TRAINED = ("embed-zh", "ner-zh", "sentiment-zh")
CARD = "CARD.md"
OF_THE_MACHINE = 0.005
"""Scores and figures may differ by this much between processors; a device allows more."""


def committed(name: str):
    folder = release.SHIPPED / name
    return folder, parse_manifest((folder / MANIFEST_FILE).read_bytes())


def unmeasured(manifest: Manifest) -> Manifest:
    """Without what differs from machine to machine, and the files that tell of it."""
    variants = tuple(
        msgspec.structs.replace(
            each, measured={}, agreement={}, requirements=Requirements(providers=each.requirements.providers)
        )
        for each in manifest.variants
    )
    files = tuple(entry for entry in manifest.files if entry.path not in (CARD, manifest.golden))
    return msgspec.structs.replace(manifest, variants=variants, files=files)


@pytest.mark.parametrize("name", TRAINED)
def test_the_bundle_is_made_of_its_source(name: str, tmp_path) -> None:
    folder, wanted = committed(name)
    made = release.imported(name, release.source_of(name, tmp_path / "source"), tmp_path / "work")
    found = parse_manifest((made / MANIFEST_FILE).read_bytes())
    assert unmeasured(found) == unmeasured(wanted)
    for ours, theirs in zip(wanted.variants, found.variants, strict=True):
        assert ours.agreement == pytest.approx(theirs.agreement, abs=OF_THE_MACHINE)
        assert set(ours.measured) == set(theirs.measured)
    ours, theirs = read_golden(wanted, folder), read_golden(found, made)
    assert {item.text for item in ours.items} == {item.text for item in theirs.items}


@pytest.mark.parametrize("name", TRAINED)
def test_the_card_is_told_by_the_manifest_and_the_notes(name: str) -> None:
    folder, manifest = committed(name)
    notes = (release.SOURCES / name / "notes.md").read_text()
    card = (folder / CARD).read_text()
    told = msgspec.structs.replace(manifest, files=tuple(e for e in manifest.files if e.path != CARD))
    counted = int(card.split(" inputs were answered")[0].rsplit(maxsplit=1)[-1])
    assert card == card_of(told, notes=notes, golden=counted)
    assert counted >= len(read_golden(manifest, folder).items)


def test_nothing_committed_tells_where_it_was_made() -> None:
    for path in shipped_models():
        data = (path / MANIFEST_FILE).read_bytes() + (path / CARD).read_bytes()
        assert b"/home/" not in data
        assert str(release.ROOT).encode() not in data
        assert canonical(parse_manifest((path / MANIFEST_FILE).read_bytes())) == (path / MANIFEST_FILE).read_bytes()
