"""`CARD.md`: what a bundle is, where it came from and how good it is, told from its manifest and what the source's author wrote.

The same manifest and notes always give the same text.
"""

from collections.abc import Iterator, Mapping, Sequence

from shared.bundle.manifest import Manifest, TaskKind

_SOURCE_FIRST = ("said", "kind", "id", "revision", "architecture")
_HIDDEN = ("card",)
_FIGURES: Mapping[str, str] = {
    "labels": "same label",
    "entities": "entity F1",
    "relations": "relation F1",
    "texts": "texts answered exactly the same",
    "tags": "code points tagged the same",
    "next_tokens": "same next token",
    "mean_cosine": "cosine, mean",
    "least_cosine": "cosine, least",
    "largest_score_difference": "largest difference of a score",
    "largest_difference": "largest difference of a number",
}
_SHARES = ("labels", "entities", "relations", "texts", "tags", "next_tokens")
_COMPARISONS: Mapping[str, str] = {
    "source_": "against the source",
    "": "against fp32",
    "batch_": "in a batch against alone",
}
_TASKS: Mapping[TaskKind, str] = {
    TaskKind.TENSOR: "arrays in, arrays out",
    TaskKind.TEXT_CLASSIFICATION: "one label per text",
    TaskKind.TOKEN_CLASSIFICATION: "named entities",
    TaskKind.TEXT_EMBEDDING: "one vector per text",
    TaskKind.TEXT_GENERATION: "text that goes on from a prompt",
    TaskKind.RELATION_EXTRACTION: "entities and relations of a schema",
}


def card_of(manifest: Manifest, *, notes: str = "", golden: int = 0) -> str:
    """The card of a manifest whose variants are measured; `golden` inputs were answered by the source as well."""
    parts = [
        f"# {manifest.name} {manifest.version}",
        _what(manifest),
        notes.strip(),
        "## Variants",
        _table(manifest),
        _measured(manifest),
        "## Agreement",
        *_agreement(manifest, golden),
        "## Source",
        _source(manifest),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _what(manifest: Manifest) -> str:
    processing = manifest.processing
    said = [f"{_TASKS[manifest.task]} (`{manifest.task.value}`)"]
    if manifest.labels:
        shown = ", ".join(manifest.labels[:20])
        said.append(f"{len(manifest.labels)} labels: {shown}{', …' if len(manifest.labels) > 20 else ''}")
    for kind, specs in (("takes", manifest.inputs), ("gives", manifest.outputs)):
        if manifest.task is TaskKind.TENSOR and specs:
            said.append(f"{kind} " + ", ".join(f"`{s.name}` {s.datatype} {list(s.shape)}" for s in specs))
    if manifest.task is TaskKind.TEXT_EMBEDDING and manifest.outputs:
        said.append(f"{manifest.outputs[0].shape[-1]} numbers")
    if processing.generation is not None:
        said.append(f"prompt and text together at most {processing.generation.context} tokens")
    elif manifest.task is not TaskKind.TENSOR:
        over = {
            TaskKind.TOKEN_CLASSIFICATION: f"longer ones are read in windows that share {processing.overlap}",
            TaskKind.RELATION_EXTRACTION: "longer ones are read in windows",
        }.get(manifest.task, "a longer one is refused, or cut where the request says `truncate`")
        said.append(f"texts of {processing.max_length} tokens at once, {over}")
    return f"{said[0][0].upper()}{said[0][1:]}; " + "; ".join(said[1:]) + "." if said[1:] else said[0] + "."


def _table(manifest: Manifest) -> str:
    speeds = sorted({name for each in manifest.variants for name in each.measured if name.startswith("ms_")}, key=_size)
    heads = [
        "Variant",
        "Runtime",
        "Precision",
        "Size",
        "Memory",
        "Load",
        *(_head(name, manifest.task) for name in speeds),
        "In a batch",
    ]
    rows = [heads, ["---"] * len(heads)]
    for each in manifest.variants:
        size = sum(manifest.file(path).size for path in each.files)
        found = each.measured
        rows.append([
            f"`{each.name}`",
            each.runtime,
            each.precision,
            f"{size / 1e6:.1f} MB",
            f"{found['memory_bytes'] / 1e6:.0f} MB" if "memory_bytes" in found else "not measured",
            f"{found['load_ms']:.0f} ms" if "load_ms" in found else "–",
            *(f"{found[name]:.2f} ms" if name in found else "–" for name in speeds),
            "same answers" if each.batch_invariant else "**depends on its batch mates**",
        ])  # fmt: skip
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _measured(manifest: Manifest) -> str:
    if not any(each.measured for each in manifest.variants):
        return ""
    told = "Measured where it was imported, one thread; memory is that of a process that has loaded it and answered."
    unmeasured = [each.name for each in manifest.variants if not each.measured]
    if unmeasured:
        told += f" Not measured there, for want of the hardware: {', '.join(unmeasured)}."
    return told


def _agreement(manifest: Manifest, golden: int) -> Iterator[str]:
    if golden:
        # A source without a pipeline says so in `golden`.
        asked = "the fp32 program" if "golden" in manifest.source else "the source itself and by the fp32 program"
        yield (
            f"{golden} inputs were answered by {asked}, and every variant was held against the fp32 program. A device "
            "replays those that all variants answer alike before it serves one."
        )
    for each in manifest.variants:
        for prefix, comparison in _COMPARISONS.items():
            if prefix == "source_" and "golden" in manifest.source:
                continue  # its own answers: they are the same, which says nothing
            figures = {
                name.removeprefix(prefix): value for name, value in each.agreement.items() if name.startswith(prefix)
            }
            if told := [_figure(name, figures[name]) for name in _FIGURES if name in figures]:
                yield f"`{each.name}` {comparison}: {', '.join(told)}."
        if each.accepted_drift is not None:
            yield f"**Accepted drift** of `{each.name}`: {each.accepted_drift}, below the bar, let in by its publisher."


def _figure(name: str, value: float) -> str:
    if name in _SHARES:
        return f"{_FIGURES[name]} {value:.2%}"
    return f"{_FIGURES[name]} {value:.4f}" if "cosine" in name else f"{_FIGURES[name]} {value:.1g}"


def _source(manifest: Manifest) -> str:
    known = {name: text for name, text in manifest.source.items() if name not in _HIDDEN}
    names: Sequence[str] = [*(n for n in _SOURCE_FIRST if n in known), *sorted(set(known) - set(_SOURCE_FIRST))]
    return "\n".join(f"- {name.replace('_', ' ')}: {known[name]}" for name in names)


def _size(name: str) -> tuple[int, ...]:
    return tuple(int(part) for part in name.removeprefix("ms_").split("x"))


def _head(name: str, task: TaskKind) -> str:
    rows, _, tokens = name.removeprefix("ms_").partition("x")
    return "One run" if task is TaskKind.TENSOR else f"{rows} x {tokens} tokens"
