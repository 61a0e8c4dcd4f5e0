"""The card of a model version: where it comes from, its variants with what was measured, how true they are, who published it."""

import time
from collections.abc import Callable, Mapping

import msgspec
from rich.console import Group
from rich.table import Table
from rich.text import Text

from cloud_core.ctl.output import ago, size_of, table
from shared.bundle.manifest import Manifest, Variant

LATENCY = "ms_"
BATCH = "batch_"
"""Figures that start so compare a variant's answers in batches with those alone."""
_SHARES = ("labels", "entities", "relations", "texts", "tags", "next_tokens")
"""Figures of agreement that are shares; others are cosines and differences."""


class VersionDetail(msgspec.Struct, frozen=True, kw_only=True):
    """A version as the API tells it."""

    model: str
    version: str
    digest: str
    task: str
    size: int
    published_by: str
    created_at: float
    manifest: Manifest


def card(detail: VersionDetail) -> Group:
    """Everything a person wants to know before using it."""
    manifest = detail.manifest
    grid = Table.grid(padding=(0, 2))
    rows = [
        ("version", f"{detail.model}@{detail.version}"),
        ("task", detail.task),
        ("source", _source(manifest.source)),
        ("labels", ", ".join(manifest.labels) or "-"),
        ("input", _input(manifest)),
        ("golden set", manifest.golden or "none"),
        ("size", f"{size_of(detail.size)} in {len(manifest.files)} files"),
        ("digest", detail.digest),
        ("published", f"{ago(detail.created_at, time.time())} by {detail.published_by}"),
    ]
    if manifest.vector_space is not None:
        rows.append(("vectors", manifest.vector_space))
    for label, value in rows:
        # What a source says of itself is text, never markup.
        grid.add_row(label, Text(value))
    parts: list[Table | Text] = [grid, Text(""), _variants(manifest)]
    drifts = [(variant.name, variant.accepted_drift) for variant in manifest.variants if variant.accepted_drift]
    parts += [Text(f"{name} was let in although it misses the bar: {drift}", style="yellow") for name, drift in drifts]
    return Group(*parts)


def _source(source: Mapping[str, str]) -> str:
    return "\n".join(f"{name}: {value}" for name, value in source.items()) or "-"


def _input(manifest: Manifest) -> str:
    if any(spec.name == "text" and spec.datatype == "BYTES" for spec in manifest.inputs):
        return f"text of up to {manifest.processing.max_length} tokens"
    return ", ".join(f"{spec.name} {spec.datatype} {list(spec.shape)}" for spec in manifest.inputs) or "-"


def _variants(manifest: Manifest) -> Table:
    sizes = {file.path: file.size for file in manifest.files}
    rows = [
        [
            variant.name,
            f"{variant.precision} ({variant.runtime})",
            size_of(sum(sizes[path] for path in variant.files)),
            size_of(variant.requirements.memory_bytes) if variant.requirements.memory_bytes else "-",
            _needs(variant),
            _measured(variant.measured, "memory_bytes", size_of),
            _measured(variant.measured, "load_ms", milliseconds),
            "\n".join(latencies(variant.measured)) or "-",
            "\n".join(agreement(_without(variant.agreement, BATCH))) or "-",
            "\n".join((_batches(variant), *agreement(_only(variant.agreement, BATCH)))),
        ]
        for variant in manifest.variants
    ]
    titles = ("VARIANT", "PRECISION", "SIZE", "NEEDS", "ON", "TOOK", "LOADS IN", "LATENCY", "GOLDEN", "BATCHES")
    return table(*titles, rows=[[Text(cell) for cell in row] for row in rows])


def _needs(variant: Variant) -> str:
    wanted = [provider.removesuffix("ExecutionProvider") for provider in variant.requirements.providers]
    return ", ".join((*wanted, *variant.requirements.features)) or "-"


def _measured(measured: Mapping[str, float], name: str, shown: Callable[[float], str]) -> str:
    return shown(measured[name]) if name in measured else "-"


def milliseconds(value: float) -> str:
    """A time as people say it."""
    return f"{value:.3g} ms"


def latencies(measured: Mapping[str, float]) -> list[str]:
    """`1x32: 5.7 ms` for every size that was measured, smallest first."""
    found = []
    for name, value in measured.items():
        rows, _, tokens = name.removeprefix(LATENCY).partition("x")
        if name.startswith(LATENCY) and rows.isdecimal() and tokens.isdecimal():
            found.append((int(rows) * int(tokens), f"{rows}x{tokens}: {milliseconds(value)}"))
    return [text for _, text in sorted(found)]


def agreement(figures: Mapping[str, float]) -> list[str]:
    """Every figure by its name: shares in percent, the others as they are."""
    return [
        f"{name.replace('_', ' ')} {f'{100 * value:.1f} %' if name.removeprefix('source_') in _SHARES else f'{value:.6g}'}"
        for name, value in figures.items()
    ]


def _batches(variant: Variant) -> str:
    return "same answer in any batch" if variant.batch_invariant else "depends on its batch"


def _only(figures: Mapping[str, float], start: str) -> dict[str, float]:
    return {name.removeprefix(start): value for name, value in figures.items() if name.startswith(start)}


def _without(figures: Mapping[str, float], start: str) -> dict[str, float]:
    return {name: value for name, value in figures.items() if not name.startswith(start)}
