"""What an ONNX file calls its inputs, their dimensions and its outputs: names that not every runtime keeps."""

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from shared.protocol.errors import Corrupt
from shared.serving.trial.protobuf import NotProtobufError, fields, text, within


class Signature(NamedTuple):
    """In the graph's order: each input with the names of its dimensions (empty where one is fixed or nameless), and outputs."""

    inputs: dict[str, tuple[str, ...]]
    outputs: tuple[str, ...]


def read_signature(path: Path) -> Signature:
    """The names in the program at `path`. Blocks.

    Raises:
        Corrupt: it cannot be read.

    """
    try:
        with path.open("rb") as file:
            return _signature(memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)))
    except (OSError, ValueError, NotProtobufError) as error:
        raise Corrupt(f"{path.name} cannot be loaded: it is not an ONNX program: {error}") from error


def _signature(model: memoryview) -> Signature:
    inputs: dict[str, tuple[str, ...]] = {}
    outputs: list[str] = []
    constants: set[str] = set()
    for graph in _messages(model, 7):
        for number, value, _ in fields(graph):
            if number == 5:
                # Old programs name their constants among the inputs, as defaults.
                constants.add(_name(within(value), 8))
            elif number == 11:
                inputs[_name(within(value), 1)] = tuple(_dimensions(within(value)))
            elif number == 12:
                outputs.append(_name(within(value), 1))
    return Signature({name: named for name, named in inputs.items() if name not in constants}, tuple(outputs))


def _dimensions(value_info: memoryview) -> Iterator[str]:
    """ValueInfo.type.tensor_type.shape.dim[].dim_param."""
    for kind in _messages(value_info, 2):
        for tensor in _messages(kind, 1):
            for shape in _messages(tensor, 2):
                for dimension in _messages(shape, 1):
                    yield _name(dimension, 2)


def _messages(message: memoryview, wanted: int) -> Iterator[memoryview]:
    return (within(value) for number, value, _ in fields(message) if number == wanted)


def _name(message: memoryview, wanted: int) -> str:
    return next((text(value) for number, value, _ in fields(message) if number == wanted), "")
