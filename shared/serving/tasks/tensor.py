"""Named arrays in, named arrays out: one request is one run, with its own leading batch dimension."""

from collections.abc import Iterator, Mapping, Sequence

from shared.bundle.manifest import TensorSpec
from shared.protocol.errors import Refusal, Refused
from shared.serving.answer import Array, Result, Tensors
from shared.serving.sessions.datatypes import datatype_of
from shared.serving.tasks.task import Prepared, Run

ELEMENTS_PER_TOKEN = 256


class TensorTask:
    """Checks arrays against the model's inputs; `rows` of a batch is 1, since shapes of two requests need not agree."""

    name = "tensor"

    def __init__(self, inputs: Sequence[TensorSpec]) -> None:
        self._inputs = tuple(inputs)

    def estimate(self, item: object, parameters: Mapping[str, object]) -> int:  # noqa: ARG002 - of the port
        """One token per 256 elements."""
        return _tokens(item) if isinstance(item, Mapping) else 1

    def prepare(self, item: object, parameters: Mapping[str, object]) -> Prepared:
        """Every input there, of its datatype, and of a shape that fits.

        Raises:
            Refused: names the input and what is allowed.

        """
        if not isinstance(item, Mapping):
            raise Refused(
                "the model takes tensors", kind=Refusal.UNPROCESSABLE, field="inputs", value=type(item).__name__
            )
        known = {spec.name: spec for spec in self._inputs}
        for name in item:
            if name not in known:
                raise Refused(
                    "unknown input", kind=Refusal.UNPROCESSABLE, field="inputs", value=name, allowed=", ".join(known)
                )
        for spec in self._inputs:
            if spec.name not in item:
                raise Refused("missing input", kind=Refusal.UNPROCESSABLE, field="inputs", allowed=", ".join(known))
            _check(spec, item[spec.name])
        return Prepared(tokens=_tokens(item), data=dict(item), parameters=parameters)

    def steps(self, run: Run, batch: Sequence[Prepared]) -> Iterator[list[Result]]:
        """The arrays of the one request in, the program's outputs as they are out."""
        yield [Tensors(outputs=dict(run(item.data))) for item in batch]


def _tokens(item: Mapping[str, Array]) -> int:
    return max(1, sum(-(-int(array.size) // ELEMENTS_PER_TOKEN) for array in item.values()))


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
    fits = len(array.shape) == len(spec.shape) and all(
        want in (-1, size) for want, size in zip(spec.shape, array.shape, strict=True)
    )
    if not fits:
        raise Refused(
            "wrong shape",
            kind=Refusal.UNPROCESSABLE,
            field=f"inputs.{spec.name}.shape",
            value=list(array.shape),
            allowed=f"{list(spec.shape)}, -1 being any size",
        )
