"""Named arrays in, named arrays out: requests whose arrays agree in all but their number of rows are computed together.

Only where the program was found to compute each row for itself (`shared.serving.versions.stacking`), and every input and output has a
first dimension that varies: anything else runs alone, as it came.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from shared.bundle.manifest import TensorSpec
from shared.protocol.errors import Refusal, Refused
from shared.serving.answer import Array, Result, Tensors
from shared.serving.sessions.datatypes import datatype_of
from shared.serving.tasks.task import Prepared, Run

ELEMENTS_PER_TOKEN = 256
"""Of real numbers. A whole number is a token: what takes those takes ids."""
MOST_ROWS = 256
"""Of one request that shares a batch; more are a batch of their own, which costs what its elements cost."""


class TensorTask:
    """Checks arrays against the model's inputs. `stacks`: rows of several requests may be computed together."""

    name = "tensor"

    def __init__(self, inputs: Sequence[TensorSpec], *, stacks: bool = False) -> None:
        self._inputs = tuple(inputs)
        self._known = frozenset(spec.name for spec in inputs)
        self.stacks = stacks
        self._varying = tuple(spec.name for spec in inputs if -1 in spec.shape[1:])

    def stacking(self) -> "TensorTask":
        """The same for a program that computes each row for itself."""
        return TensorTask(self._inputs, stacks=True)

    def estimate(self, item: object, parameters: Mapping[str, object]) -> int:  # noqa: ARG002 - of the port
        """A token per whole number of the largest array of those, and per 256 real ones; of each row where rows are counted."""
        if not isinstance(item, (dict, Mapping)):
            return 1
        rows = _rows(item) if self.stacks else 0
        return rows * _tokens(item, rows) if rows else _tokens(item, 1)

    def prepare(self, item: object, parameters: Mapping[str, object]) -> Prepared:
        """Every input there, of its datatype, and of a shape that fits.

        Raises:
            Refused: names the input and what is allowed.

        """
        if not isinstance(item, (dict, Mapping)):
            raise Refused(
                "the model takes tensors", kind=Refusal.UNPROCESSABLE, field="inputs", value=type(item).__name__
            )
        for name in item:
            if name not in self._known:
                raise Refused(
                    "unknown input", kind=Refusal.UNPROCESSABLE, field="inputs", value=name, allowed=self._allowed
                )
        for spec in self._inputs:
            if spec.name not in item:
                raise Refused("missing input", kind=Refusal.UNPROCESSABLE, field="inputs", allowed=self._allowed)
            _check(spec, item[spec.name])
        data = dict(item)
        rows = _rows(data) if self.stacks else 0
        if not rows:
            # A group nobody else is in while this waits.
            group = str(id(data)) if self.stacks else ""
            return Prepared(tokens=_tokens(data, 1), data=data, parameters=parameters, group=group)
        group = ";".join(str(data[name].shape[1:]) for name in self._varying)
        return Prepared(tokens=_tokens(data, rows), rows=rows, data=data, parameters=parameters, group=group)

    def steps(self, run: Run, batch: Sequence[Prepared]) -> Iterator[list[Result]]:
        """The arrays of a request in, its rows of the program's outputs out."""
        if len(batch) > 1 and (found := self._stacked(run, batch)) is not None:
            yield found
        else:
            yield [Tensors(outputs=dict(run(item.data))) for item in batch]

    def _stacked(self, run: Run, batch: Sequence[Prepared]) -> list[Result] | None:
        """All in one run; None where what came out has other rows than what went in, and each must be computed alone."""
        first = batch[0].data
        outputs = run({name: np.concatenate([item.data[name] for item in batch]) for name in first})
        ends = np.cumsum([item.rows for item in batch]).tolist()
        if any(array.ndim == 0 or len(array) != ends[-1] for array in outputs.values()):
            return None
        return [
            Tensors(outputs={name: array[end - item.rows : end] for name, array in outputs.items()})
            for item, end in zip(batch, ends, strict=True)
        ]

    @property
    def _allowed(self) -> str:
        return ", ".join(spec.name for spec in self._inputs)


def _rows(item: Mapping[str, Array]) -> int:
    """How many rows all of its arrays have; 0 where they differ, have none, or have more than share a batch."""
    rows = -1
    for array in item.values():
        shape = array.shape
        if not shape or (rows not in (-1, shape[0])):
            return 0
        rows = shape[0]
    return rows if 0 <= rows <= MOST_ROWS else 0


def _tokens(item: Mapping[str, Array], rows: int) -> int:
    """Of each of `rows` rows."""
    size = ELEMENTS_PER_TOKEN * rows
    total = ids = 0
    for array in item.values():
        if array.dtype.kind in "iu" and array.itemsize > 1:
            ids = max(ids, -(-array.size // rows))
        else:
            total += -(-array.size // size)
    return total + ids or 1


def _check(spec: TensorSpec, array: Array) -> None:
    datatype = datatype_of(array)
    if datatype != spec.datatype:
        raise Refused(
            "wrong datatype",
            kind=Refusal.UNPROCESSABLE,
            field=f"inputs.{spec.name}.datatype",
            value=datatype,
            allowed=spec.datatype,
        )
    fits = len(array.shape) == len(spec.shape)
    for want, size in zip(spec.shape, array.shape, strict=False):
        fits = fits and want in (-1, size)
    if not fits:
        raise Refused(
            "wrong shape",
            kind=Refusal.UNPROCESSABLE,
            field=f"inputs.{spec.name}.shape",
            value=list(array.shape),
            allowed=f"{list(spec.shape)}, -1 being any size",
        )
