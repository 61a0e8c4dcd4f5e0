"""Inputs for a program nobody brought inputs for: seeded numbers of the declared shapes, and what the program answers to them."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import msgspec
import numpy as np

from cloud_core.importer.expected import short
from cloud_core.importer.running import run_session
from shared.bundle.manifest import TensorSpec
from shared.protocol.errors import Refusal, Refused
from shared.serving.answer import Array
from shared.serving.sessions.datatypes import NUMPY
from shared.serving.versions.golden import GoldenItem

ITEMS = 16
NUMBERS = 400_000
"""Of all items together: they travel with the bundle as text."""
SIZES = (2, 1, 8, 16, 32, 64, 224)
"""Tried for what varies in a shape and has no example, in this order."""
_SEED = 20_261_121


class Described(Protocol):
    """What is known of an input."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def datatype(self) -> str: ...  # noqa: D102
    @property
    def shape(self) -> tuple[int, ...]: ...  # noqa: D102
    @property
    def minimum(self) -> float | None: ...  # noqa: D102
    @property
    def maximum(self) -> float | None: ...  # noqa: D102
    @property
    def example(self) -> tuple[int, ...] | None: ...  # noqa: D102


def made_up(graph: bytes, inputs: Sequence[Described]) -> tuple[GoldenItem, ...]:
    """Up to `ITEMS` golden items, of shapes the program takes.

    Raises:
        Refused: it takes none of the sizes tried, or texts, which cannot be made up.

    """
    session = run_session(graph)
    failure = ""
    for size in SIZES if any(-1 in (each.example or each.shape) for each in inputs) else SIZES[:1]:
        feeds = _feeds(inputs, size, np.random.default_rng(_SEED))
        try:
            session.run(None, feeds)
        except Exception as error:
            # ONNX Runtime's errors share no class; each means that these sizes do not fit.
            failure = str(error)[:200]
            continue
        count = max(1, min(ITEMS, NUMBERS // max(1, sum(value.size for value in feeds.values()))))
        random = np.random.default_rng(_SEED)
        made = [_feeds(inputs, size, random) for _ in range(count)]
        items = [GoldenItem(inputs={k: short(v) for k, v in each.items()}, expect={}) for each in made]
        return answered(graph, items, [TensorSpec(name=i.name, datatype=i.datatype, shape=i.shape) for i in inputs])
    raise Refused(
        f"the program runs on no made-up input: {failure}",
        kind=Refusal.UNPROCESSABLE,
        field="signature.inputs",
        allowed="an `example` shape per input, or `golden` items",
    )


def answered(graph: bytes, items: Sequence[GoldenItem], inputs: Sequence[TensorSpec]) -> tuple[GoldenItem, ...]:
    """The items, the program's own outputs as what is expected where nothing is.

    Raises:
        Refused: an item the program cannot take; names it.

    """
    session = run_session(graph)
    names = [node.name for node in session.get_outputs()]
    found: list[GoldenItem] = []
    for i, item in enumerate(items):
        if item.expect:
            found.append(item)
            continue
        try:
            given = item.inputs or {}
            feeds = {spec.name: np.asarray(given[spec.name], dtype=NUMPY[spec.datatype]) for spec in inputs}
            values = session.run(None, feeds)
        except Exception as error:
            raise Refused(
                f"the program cannot take it: {type(error).__name__}: {str(error)[:200]}",
                kind=Refusal.UNPROCESSABLE,
                field=f"signature.golden[{i}].inputs",
                allowed=", ".join(f"{spec.name} {spec.datatype} {list(spec.shape)}" for spec in inputs),
            ) from error
        outputs = {name: short(np.asarray(value)) for name, value in zip(names, values, strict=True)}
        found.append(msgspec.structs.replace(item, expect={"outputs": outputs}))
    return tuple(found)


def _feeds(inputs: Sequence[Described], size: int, random: np.random.Generator) -> dict[str, Array]:
    return dict(_values(inputs, size, random))


def _values(inputs: Sequence[Described], size: int, random: np.random.Generator) -> Iterator[tuple[str, Array]]:
    for i, each in enumerate(inputs):
        shape = tuple(size if axis < 0 else axis for axis in (each.example or each.shape))
        if each.datatype == "BYTES":
            raise Refused(
                "texts cannot be made up",
                kind=Refusal.UNPROCESSABLE,
                field=f"signature.inputs[{i}]",
                value=each.name,
                allowed="`golden` items",
            )
        yield each.name, _drawn(each, shape, random).astype(NUMPY[each.datatype])


def _drawn(each: Described, shape: tuple[int, ...], random: np.random.Generator) -> Array:
    low, high = each.minimum, each.maximum
    if not each.datatype.startswith("FP"):
        # Zero and one are indices into nearly everything.
        return random.integers(int(low or 0), int(1 if high is None else high) + 1, shape)
    bounded = low is not None or high is not None
    values = random.uniform(low or 0.0, 1.0 if high is None else high, shape) if bounded else random.normal(size=shape)
    return np.asarray(short(values.astype(np.float32)), dtype=np.float64)
