"""What a model computes before it may answer: a short text, as long a one as it takes, and its golden set.

A worker that serves and a trial that does not go through the same: what was tried is what will answer.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from shared.bundle.manifest import Manifest
from shared.protocol.errors import Corrupt
from shared.serving.answer import Result
from shared.serving.versions.golden import DEFAULT_TOLERANCE, Golden, difference

ALONE = 4
"""So many items of the golden set are computed alone; all of them together."""
_TEXT = "你好，world"
_TOKENS = 32
"""Tokens a generator writes to show how long they take."""


class Warming(NamedTuple):
    """A text to compute, and the request's parameters."""

    text: str
    parameters: Mapping[str, object]


def warming(manifest: Manifest) -> tuple[Warming, Warming]:
    """A short and a long text for a model that takes texts."""
    generation = manifest.processing.generation
    if generation is not None:
        # What a generator takes its time for is what it writes.
        half = max(1, generation.context // 2)
        return Warming(_TEXT, {"max_tokens": min(2, half)}), Warming(_TEXT, {"max_tokens": min(_TOKENS, half)})
    # Two code points a token at the most: as long as the model takes at once, and not many windows of it.
    most = manifest.processing.max_length
    return Warming(_TEXT, {}), Warming((_TEXT * most)[: 2 * most], {})


def differences(
    golden: Golden, variant: str, results: Iterable[tuple[int, Result]], *, precision: str = ""
) -> list[str]:
    """How results differ from the golden set, each given with its item's place; empty where they do not.

    A variant computed in another `precision` than its own is held to the widest tolerance that any variant of the version has:
    so much its publisher lets pass as the same model. Where no variant is rounded, nothing may be.

    Raises:
        Corrupt: what the golden set expects has no meaning.

    """
    tolerance = golden.tolerances.get(variant, DEFAULT_TOLERANCE)
    if precision:
        tolerance = max((tolerance, *golden.tolerances.values()))
    found: list[str] = []
    for place, result in results:
        try:
            what = difference(golden.items[place].expect, result, tolerance)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise Corrupt(f"the golden set's item {place} expects nothing that can be: {error}") from error
        if what is not None:
            found.append(f"item {place}: {what}")
    return found
