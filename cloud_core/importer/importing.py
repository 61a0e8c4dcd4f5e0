"""One import from its request to a bundle: the order of steps, and what each of them must hold before the next begins."""

from pathlib import Path

import msgspec

from cloud_core.importer import golden as golden_sets
from cloud_core.importer.answers import answer_with
from cloud_core.importer.architectures.choose import STAGED, open_source
from cloud_core.importer.assemble import CARD, Assembly
from cloud_core.importer.card import card_of
from cloud_core.importer.export import export
from cloud_core.importer.forms import FILES, FP32, Making, fp32_variant, narrow_weights
from cloud_core.importer.measure import measured
from cloud_core.importer.opened import Opened
from cloud_core.importer.request import BUNDLE, VARIANTS, ImportRequest
from cloud_core.importer.saying import Say, within
from cloud_core.importer.source import FETCHED, obtain
from cloud_core.importer.variants import admit
from shared.bundle.manifest import Manifest, Variant
from shared.protocol import names
from shared.protocol.errors import Refusal, Refused
from shared.serving.answer import Result
from shared.serving.tasks.choose import task_for
from shared.serving.versions.golden import Golden, item_of


def import_model(request: ImportRequest, work: Path, say: Say) -> str:
    """Make `WORK/bundle`; the digest of its manifest.

    Raises:
        Refused: the source, the golden set or a variant is not what it must be; says what, and what is allowed.
        Transient: the hub cannot be reached, or the disk is full or failing.
        Corrupt: a variant that was made cannot be loaded, or does not answer as it did, in a process of its own.

    """
    check_request(request)
    if any((work / name).exists() for name in (BUNDLE, STAGED, FETCHED)):
        raise Refused("the folder was used before", kind=Refusal.CONFLICT, field="work", allowed="a fresh folder")
    source = obtain(request, work, within(say, 0.0, 0.15))
    say("open", 0.15, request.said)
    opened = open_source(request, source, work)
    say("export", 0.25, opened.architecture)
    assembly = Assembly(request, opened, work / BUNDLE)
    manifest = _exported(assembly, opened)
    asked = Path(request.golden) if request.golden else None
    golden = golden_sets.golden_set(opened, asked, within(say, 0.35, 0.45))
    say("compare", 0.45, "the fp32 program answers them, too")
    items = [item_of(item, manifest) for item in golden.items]
    answers = answer_with(manifest, assembly.folder, FP32, items)
    golden_sets.check(golden, answers)
    unpruned: list[Result] | None = None
    if request.prune_heads:
        say("prune", 0.48, f"{request.prune_heads:.0%} of all attention heads")
        opened, unpruned = _pruned(request, opened, assembly, manifest, items), answers
        manifest = _exported(assembly, opened)
    say("variants", 0.5, ", ".join(request.variants))
    making = Making(opened, manifest, assembly.folder, items)
    admitted = admit(
        making, golden, request.variants, accept=request.accept_drift, say=within(say, 0.5, 0.85), source=unpruned
    )
    assembly.add(golden_sets.FILE, msgspec.json.encode(golden_sets.in_file(admitted.golden), order="sorted"))
    variants = _measured(assembly, admitted.variants, within(say, 0.85, 0.98))
    return _sealed(request, opened, assembly, variants, golden)


def check_request(request: ImportRequest) -> None:
    """Refuse what no source could make good, before anything is fetched."""
    names.checked("model", request.name, field="name")
    names.checked("version", request.version, field="version")
    unknown = [name for name in request.variants if name not in VARIANTS]
    if unknown or not request.variants:
        raise Refused(
            "no such variant" if unknown else "no variant",
            kind=Refusal.UNPROCESSABLE,
            field="variants",
            value=", ".join(unknown),
            allowed=", ".join(VARIANTS),
        )
    if not 0 <= request.prune_heads < 1:
        raise Refused(
            "not a share", kind=Refusal.UNPROCESSABLE, field="prune_heads", value=request.prune_heads,
            allowed="0 to below 1",
        )  # fmt: skip


def _exported(assembly: Assembly, opened: Opened) -> Manifest:
    """The fp32 program in the bundle's folder, and the manifest of nothing but it."""
    path = assembly.folder / FILES[FP32]
    export(opened, path)
    narrow_weights(path)
    assembly.changed(opened, FILES[FP32])
    return assembly.manifest([fp32_variant()])


def _pruned(
    request: ImportRequest, opened: Opened, assembly: Assembly, manifest: Manifest, items: list[object]
) -> Opened:
    # Loaded here: it is about modules of torch, which a source that is a graph does without.
    from cloud_core.importer.prune_heads import prune_heads  # noqa: PLC0415

    return prune_heads(opened, request.prune_heads, task_for(manifest, assembly.folder), items)


def _measured(assembly: Assembly, variants: tuple[Variant, ...], say: Say) -> list[Variant]:
    """Each variant tried and measured alone in a process, with the golden set that travels."""
    manifest = assembly.manifest(variants)
    found: list[Variant] = []
    for done, variant in enumerate(variants):
        say("measure", done / len(variants), variant.name)
        found.append(measured(manifest, assembly.folder, variant))
    return found


def _sealed(request: ImportRequest, opened: Opened, assembly: Assembly, variants: list[Variant], golden: Golden) -> str:
    say_of_it = "\n\n".join(part for part in (request.description.strip(), opened.notes.strip()) if part)
    card = card_of(assembly.manifest(variants), notes=say_of_it, golden=len(golden.items))
    assembly.add(CARD, card.encode())
    return assembly.seal(variants)
