"""The variants of an import: each is made, held against the fp32 program, and let in or refused with what differed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from cloud_core.importer.agreement import Figures, alike, compared
from cloud_core.importer.answers import opened_variant
from cloud_core.importer.expected import whole_results
from cloud_core.importer.forms import DYNAMIC, FP32, Making, forms, fp32_variant
from cloud_core.importer.gate import judge, judge_batches, table
from cloud_core.importer.golden_fit import EXACT, Answers, fitted
from cloud_core.importer.next_tokens import next_token_agreement
from cloud_core.importer.saying import Say
from shared.bundle.manifest import Manifest, TaskKind, Variant
from shared.protocol.errors import Refused
from shared.serving.answer import Result
from shared.serving.versions.golden import Golden

ROWS = 8


@dataclass(frozen=True)
class _Compared:
    """What was to be answered, what was, and the figures of both."""

    wanted: Sequence[Result]
    found: Sequence[Result]
    figures: Figures
    pruned: bool = False


@dataclass(frozen=True)
class Admitted:
    """The variants that were let in, in the order asked for, and the golden set they all reproduce."""

    variants: tuple[Variant, ...]
    golden: Golden


def admit(
    making: Making,
    golden: Golden,
    names: Sequence[str],
    *,
    accept: Mapping[str, float],
    say: Say,
    source: Sequence[Result] | None = None,
) -> Admitted:
    """Make and judge the variants `names`; programs of those that are let in lie in the folder.

    Args:
        making: what they are made of; its items are those of `golden`.
        golden: what is expected, whole.
        names: of the variants wanted; the fp32 one is held to the same, wanted or not.
        accept: by variant, the figure its publisher accepts below the bar.
        say: told of each variant.
        source: the unpruned source's answers, where heads were pruned: every variant is held against those.

    Raises:
        Refused: a variant strays from fp32, depends on its batch mates or gains nothing; says by how much, and where.

    """
    if unused := sorted(set(accept) - set(names)):
        allowed = ", ".join(names)
        raise Refused("no such variant is made", field="accept_drift", value=", ".join(unused), allowed=allowed)
    say(FP32, 0.0, "answers the golden set")
    base = _answers(making.manifest, making, FP32)
    wanted = base.alone if source is None else source
    first = fp32_variant()
    agreement = _with_source(golden if source is None else source, base.alone, making.items)
    accepted = None
    if source is not None:
        both = _Compared(source, base.alone, compared(source, base.alone, making.items), pruned=True)
        accepted = _judged(making, FP32, both, accept.get(FP32))
    if _is_batched(making):
        agreement |= judge_batches(FP32, base.alone, base.together, exact=True)
    found = {FP32: msgspec.structs.replace(first, agreement=agreement, accepted_drift=accepted)}
    told = {FP32: base}
    for done, name in enumerate(dict.fromkeys(names)):
        if name != FP32:
            say(name, done / len(names), "is made")
            found[name], told[name] = _first_good(making, name, accept.get(name), wanted)
    kept = [name for name in dict.fromkeys(names) if name in found]
    return Admitted(tuple(found[name] for name in kept), fitted(golden, {name: told[name] for name in kept}))


def _first_good(making: Making, name: str, accept: float | None, wanted: Sequence[Result]) -> tuple[Variant, Answers]:
    """The first form that reaches the bars, or the last one where its figure is accepted."""
    refusal: Refused | None = None
    last: tuple[Variant, Answers, Figures] | None = None
    for variant in forms(name, making):
        manifest = msgspec.structs.replace(making.manifest, variants=(*making.manifest.variants, variant))
        answers = _answers(manifest, making, name)
        figures = compared(wanted, answers.alone, making.items) | _decoding(manifest, making, name)
        if _is_batched(making):
            exact = name in EXACT
            held = name != DYNAMIC
            figures |= judge_batches(name, answers.alone, answers.together, exact=exact, held=held)
        last = (variant, answers, figures)
        try:
            _judged(making, name, _Compared(wanted, answers.alone, figures), None)
        except Refused as error:
            refusal = error
        else:
            refusal = None
            break
    if last is None:
        raise ValueError(f"{name} has no form")
    variant, answers, figures = last
    accepted = None
    if accept is not None or refusal is not None:
        accepted = _judged(making, name, _Compared(wanted, answers.alone, figures), accept)
    return msgspec.structs.replace(variant, agreement=figures, accepted_drift=accepted), answers


def _answers(manifest: Manifest, making: Making, name: str) -> Answers:
    with opened_variant(manifest, making.folder, name) as model:
        alone = model.answers(making.items)
        together = model.answers(making.items, rows=ROWS) if _is_batched(making) else alone
    with opened_variant(manifest, making.folder, name, elsewhere=True) as model:
        return Answers(alone, together, model.answers(making.items))


def _decoding(manifest: Manifest, making: Making, name: str) -> Figures:
    generation = manifest.processing.generation
    if generation is None:
        return {}
    with (
        opened_variant(manifest, making.folder, FP32) as wanted,
        opened_variant(manifest, making.folder, name) as found,
    ):
        return {"next_tokens": round(next_token_agreement(generation, making.items, wanted, found), 6)}


def _with_source(expected: Golden | Sequence[Result], found: Sequence[Result], items: Sequence[object]) -> Figures:
    """Figures of the fp32 program's answers and the source's, named `source_…`, over what the source answered in whole."""
    wanted = whole_results(expected.items) if isinstance(expected, Golden) else expected
    trios = [trio for trio in zip(wanted, found, items, strict=True) if trio[0] is not None and alike(trio[0], trio[1])]
    if not trios:
        return {}
    figures = compared(
        [a for a, _, _ in trios if a is not None], [b for _, b, _ in trios], [item for *_, item in trios]
    )
    return {f"source_{name}": value for name, value in figures.items()}


def _judged(making: Making, name: str, both: _Compared, accept: float | None) -> str | None:
    rows = table(making.items, both.wanted, both.found)
    against = "the unpruned source" if both.pruned else "the fp32 program"
    return judge(making.manifest.task, name, both.figures, accept=accept, differing=rows, against=against)


def _is_batched(making: Making) -> bool:
    return making.manifest.task is not TaskKind.TENSOR
