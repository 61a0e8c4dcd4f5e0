"""What an ONNX program may hold, read from its bytes before any runtime parses them.

Allowed: one self-contained file; operators of `""`, `ai.onnx`, `ai.onnx.ml` and the listed ones of `com.microsoft`; subgraphs a few
levels deep. Refused: data outside the file in any form, functions of its own, training graphs, sparse tensors, and more nodes or
elements than any model served here needs. Every refusal names what, where, and what is allowed.
"""

import math
import mmap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from shared.bundle.sniff import HEAD, kind_of
from shared.protocol.errors import Refusal, Refused
from shared.serving.trial.protobuf import NotProtobufError, fields, integers, text, within

MAX_BYTES = (2 << 30) - 1
"""Protobuf reads no more."""
MAX_NODES = 100_000
MAX_TENSORS = 100_000
MAX_NESTING = 8
MAX_ELEMENTS = 1 << 30
"""Of one constant, or one input whose shape is fixed."""
IR_VERSIONS = (3, 13)
OPSETS: Mapping[str, tuple[int, int]] = {"": (6, 26), "ai.onnx.ml": (1, 5), "com.microsoft": (1, 1)}
"""What ONNX Runtime 1.31 runs of each domain (measured); an older one says itself what it lacks, in the trial."""
STANDARD = ("", "ai.onnx")
"""Two names of one domain."""
MICROSOFT = frozenset({
    # What tools that quantize and fuse make of ordinary graphs. Left out on purpose is what loads files (EPContext, ExternalCustom),
    # runs other languages (PyOp, PythonOp, ATen), or searches on its own (BeamSearch, Sampling).
    "Attention", "BiasGelu", "BiasSoftmax", "DequantizeLinear", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul",
    "EmbedLayerNormalization", "FastGelu", "FusedConv", "FusedGemm", "FusedMatMul", "Gelu", "GroupQueryAttention",
    "MatMulInteger16", "MatMulIntegerToFloat", "MatMulNBits", "MultiHeadAttention", "NhwcMaxPool", "QAttention",
    "QEmbedLayerNormalization", "QGemm", "QLinearAdd", "QLinearAveragePool", "QLinearConcat", "QLinearConv",
    "QLinearGlobalAveragePool", "QLinearLeakyRelu", "QLinearMul", "QLinearReduceMean", "QLinearSigmoid", "QLinearSoftmax",
    "QLinearWhere", "QuantizeLinear", "QuickGelu", "ReduceSumInteger", "RotaryEmbedding", "SkipLayerNormalization",
    "SkipSimplifiedLayerNormalization",
})  # fmt: skip


class Program(NamedTuple):
    """What was read of a program: opset by domain, and its operators as (domain, name)."""

    ir_version: int
    opsets: Mapping[str, int]
    operators: frozenset[tuple[str, str]]
    nodes: int


def check_program(path: Path) -> Program:
    """Read and judge the program at `path`. Blocks.

    Raises:
        Refused: `code` is `not-onnx`, `too-large`, `external-data`, `forbidden-operator`, `unsupported-opset`, `forbidden-content`.
        OSError: it cannot be read.

    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        if size > MAX_BYTES:
            raise _too_large("the program", path.name, f"{size} bytes", f"{MAX_BYTES} bytes")
        if size == 0:
            raise _refused("the program is empty", path.name, code="not-onnx", allowed="an ONNX program")
        # Given back when the last view of it is gone: a refusal's traceback may hold one for a moment.
        return judge(memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)), path.name)


def judge(data: memoryview, name: str) -> Program:
    """As `check_program`, of its bytes; `name` is what refusals call it."""
    kind = kind_of(bytes(data[:HEAD]))
    if kind is not None:
        raise _refused("not an ONNX program", name, code="not-onnx", value=kind, allowed="ONNX's own form")
    reader = _Reader(name)
    try:
        return reader.model(data)
    except NotProtobufError as error:
        raise _refused(f"not an ONNX program: {error}", name, code="not-onnx", allowed="ONNX's own form") from error


class _Reader:
    def __init__(self, name: str) -> None:
        self._name = name
        self._nodes = 0
        self._tensors = 0
        self._operators: set[tuple[str, str]] = set()

    def model(self, message: memoryview) -> Program:
        version, opsets, graphs = 0, dict[str, int](), 0
        for number, value, _ in fields(message):
            if number == 1 and isinstance(value, int):
                version = value
            elif number == 7:
                graphs += 1
                self._graph(within(value), "graph", depth=0)
            elif number == 8:
                domain, opset = self._opset(within(value))
                opsets[domain] = opset
            elif number == 20:
                raise self._content("a training graph", "training_info", "a program for inference")
            elif number == 25:
                raise self._content("functions of its own", "functions", "none; onnx.inliner puts them into the graph")
        if not graphs:
            raise NotProtobufError("there is no graph in it")
        if not IR_VERSIONS[0] <= version <= IR_VERSIONS[1]:
            raise self._unsupported("IR version", "ir_version", version, IR_VERSIONS)
        for domain, opset in opsets.items():
            # A domain that is declared and not used, as exporters do, says nothing; a used one was refused above.
            low, high = OPSETS.get(domain, (opset, opset))
            if not low <= opset <= high:
                raise self._unsupported(f"opset of {domain or 'ai.onnx'}", "opset_import", opset, (low, high))
        return Program(version, opsets, frozenset(self._operators), self._nodes)

    def _opset(self, message: memoryview) -> tuple[str, int]:
        domain, version = "", 0
        for number, value, _ in fields(message):
            if number == 1:
                domain = text(value)
            elif number == 2 and isinstance(value, int):
                version = value
        return "" if domain in STANDARD else domain, version

    def _graph(self, message: memoryview, path: str, *, depth: int) -> None:
        if depth > MAX_NESTING:
            raise self._content("graphs nested too deep", path, f"{MAX_NESTING} levels")
        place = 0
        for number, value, _ in fields(message):
            if number == 1:
                self._node(within(value), f"{path}.node[{place}]", depth=depth)
                place += 1
            elif number == 5:
                self._tensor(within(value), f"{path}.initializer")
            elif number == 11:
                self._input(within(value), f"{path}.input")
            elif number == 15:
                raise self._content("a sparse tensor", f"{path}.sparse_initializer", "dense ones")

    def _node(self, message: memoryview, path: str, *, depth: int) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise _too_large("the graph", self._at(path), f"more than {MAX_NODES} nodes", f"{MAX_NODES}")
        operators, domains = [], []
        for number, value, _ in fields(message):
            if number == 4:
                operators.append(text(value))
            elif number == 5:
                self._attribute(within(value), f"{path}.attribute", depth=depth)
            elif number == 7:
                domains.append(text(value))
        for domain in domains or [""]:
            for operator in operators:
                self._operator("" if domain in STANDARD else domain, operator, path)

    def _operator(self, domain: str, operator: str, path: str) -> None:
        if domain not in OPSETS:
            raise self._domain(domain, path, operator)
        if domain == "com.microsoft" and operator not in MICROSOFT:
            allowed = ", ".join(sorted(MICROSOFT))
            raise self._forbidden("an operator that may not be used", path, f"{domain}.{operator}", allowed)
        self._operators.add((domain, operator))

    def _attribute(self, message: memoryview, path: str, *, depth: int) -> None:
        for number, value, _ in fields(message):
            if number in (5, 10):
                self._tensor(within(value), path)
            elif number in (6, 11):
                self._graph(within(value), f"{path}.g", depth=depth + 1)
            elif number in (22, 23):
                raise self._content("a sparse tensor", path, "dense ones")

    def _tensor(self, message: memoryview, path: str) -> None:
        self._tensors += 1
        if self._tensors > MAX_TENSORS:
            raise _too_large("the graph", self._at(path), f"more than {MAX_TENSORS} tensors", f"{MAX_TENSORS}")
        dims: list[int] = []
        for number, value, _ in fields(message):
            if number == 1:
                dims.extend(integers(value))
            elif number == 13 or (number == 14 and value != 0):
                raise _refused(
                    "data outside the file",
                    self._at(path),
                    code="external-data",
                    allowed="a program that holds all of its data; onnx.save(model, path) writes one",
                )
        self._shape(dims, path)

    def _input(self, message: memoryview, path: str) -> None:
        """A graph's input: the fixed part of its shape is bounded. ValueInfo.type.tensor_type.shape.dim.dim_value."""
        dims: list[int] = []
        for shape in _inside(_inside(_inside([message], 2), 1), 2):
            for dim in _inside([shape], 1):
                dims.extend(size for number, value, _ in fields(dim) if number == 1 for size in integers(value))
        self._shape([max(size, 1) for size in dims], path)

    def _shape(self, dims: list[int], path: str) -> None:
        if any(size < 0 for size in dims):
            raise self._content("a negative dimension", path, "0 or more", value=dims)
        if math.prod(dims) > MAX_ELEMENTS:
            raise _too_large("a tensor", self._at(path), dims, f"{MAX_ELEMENTS} elements")

    def _at(self, path: str) -> str:
        return f"{self._name}:{path}"

    def _content(self, what: str, path: str, allowed: str, *, value: object = None) -> Refused:
        return _refused(
            f"the program holds {what}", self._at(path), code="forbidden-content", value=value, allowed=allowed
        )

    def _forbidden(self, message: str, path: str, value: str, allowed: str) -> Refused:
        return _refused(message, self._at(path), code="forbidden-operator", value=value, allowed=allowed)

    def _domain(self, domain: str, path: str, operator: str) -> Refused:
        allowed = ", ".join(known or "ai.onnx" for known in OPSETS)
        return self._forbidden("an operator of a domain that may not be used", path, f"{domain}.{operator}", allowed)

    def _unsupported(self, what: str, path: str, value: int, allowed: tuple[int, int]) -> Refused:
        low, high = allowed
        return _refused(
            f"{what} is not supported",
            self._at(path),
            code="unsupported-opset",
            value=value,
            allowed=f"{low} to {high}",
        )


def _inside(messages: Iterable[memoryview], wanted: int) -> Iterable[memoryview]:
    return (within(value) for message in messages for number, value, _ in fields(message) if number == wanted)


def _refused(message: str, field: str, *, code: str, value: object = None, allowed: str | None = None) -> Refused:
    return Refused(message, kind=Refusal.UNPROCESSABLE, field=field, value=value, allowed=allowed, code=code)


def _too_large(what: str, field: str, value: object, allowed: str) -> Refused:
    return _refused(f"{what} is too large", field, code="too-large", value=value, allowed=f"at most {allowed}")
