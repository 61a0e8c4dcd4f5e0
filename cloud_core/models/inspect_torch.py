"""What a `.pt2` file may hold: an archive that `torch.export.save` wrote, without anything loading it would execute.

`torch.export.load` is no reader of data: it falls back to an unrestricted `torch.load` for sample inputs, evaluates the text of
shapes (`sympy.sympify`) and of guards, resolves names of operators below `torch`, `math` and `operator`, and imports the modules
that containers name. So all of that must be absent, or be of a form that says only what it should. Nothing here imports torch.
"""

import ast
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shared.bundle.sniff import HEAD, ZIP, kind_of
from shared.protocol.errors import Refusal, Refused

RUNTIME = "torch-export"
MAX_MEMBERS = 100_000
MAX_JSON = 64 << 20
MAX_EXPRESSION = 1000

_MEMBER = re.compile(
    r"(?:models/model\.json|data/weights/(?:weight_\d+|model_weights_config\.json)|data/sample_inputs/model\.pt"
    r"|data/constants/(?:tensor_\d+|model_constants_config\.json)|archive_format|archive_version|byteorder|version"
    r"|\.data/(?:version|serialization_id|alignment))"
)
_TARGET = re.compile(r"torch\.ops\.(?:aten|prims)\.[a-z_][a-z0-9_]*\.[A-Za-z_][A-Za-z0-9_]*")
_PLAIN_TARGETS = frozenset(
    f"_operator.{name}"
    for name in (
        "getitem",
        "add",
        "sub",
        "mul",
        "floordiv",
        "mod",
        "pow",
        "neg",
        "eq",
        "ne",
        "lt",
        "le",
        "gt",
        "ge",
        "and_",
        "or_",
    )
) | {"torch.sym_max", "torch.sym_min", "torch.sym_not", "torch.sym_float", "torch.sym_int", "torch.sym_ite"}
_PAYLOAD = re.compile(r"(?:weight|tensor)_\d+")
_SHAPE_WORDS = frozenset({
    "Symbol", "Integer", "Float", "Rational", "Add", "Mul", "Pow", "Max", "Min", "Mod", "PythonMod", "FloorDiv", "CleanDiv",
    "CeilToInt", "FloorToInt", "IntTrueDiv", "TruncToInt", "Abs", "Eq", "Ne", "Equality", "Unequality", "StrictLessThan",
    "LessThan", "StrictGreaterThan", "GreaterThan", "And", "Or", "Not", "true", "false",
})  # fmt: skip
_SYMBOL = re.compile(r"[suz]+\d+")
_SHAPE_SYNTAX = (
    ast.Expression, ast.Call, ast.Name, ast.Load, ast.Constant, ast.keyword, ast.BinOp, ast.UnaryOp, ast.USub,
    ast.Add, ast.Sub, ast.Mult, ast.FloorDiv, ast.Mod,
)  # fmt: skip
_POWERS = frozenset(text for power in range(-4, 5) for text in (f"Integer({power})", str(power)))
_UNREADABLE = (
    zipfile.BadZipFile, OSError, ValueError, KeyError, TypeError, AttributeError, SyntaxError, RecursionError,
)  # fmt: skip
"""What reading something that is not in the expected form raises."""
_CONTAINERS = frozenset({None, "builtins.tuple", "builtins.list", "builtins.dict"})


def inspect_torch(path: Path) -> None:
    """Judge the archive at `path`. Blocks.

    Raises:
        Refused: `code` is `forbidden-content`, `forbidden-operator` or `too-large`.

    """
    with path.open("rb") as file:
        if kind_of(file.read(HEAD)) != ZIP:
            raise _refused("not a .pt2 file", path.name, allowed="what torch.export.save writes")
    try:
        with zipfile.ZipFile(path) as archive:
            _inspect(archive, path.name)
    except _UNREADABLE as error:
        said = f"{type(error).__name__}: {error}"
        raise _refused(f"not a .pt2 file: {said}", path.name, allowed="what torch.export.save writes") from error


def _inspect(archive: zipfile.ZipFile, name: str) -> None:
    members = archive.infolist()
    if len(members) > MAX_MEMBERS:
        raise _refused("too many members", name, code="too-large", value=len(members), allowed=f"at most {MAX_MEMBERS}")
    roots = {member.filename.partition("/")[0] for member in members}
    if len(roots) != 1 or len({member.filename for member in members}) != len(members) or archive.comment:
        raise _refused(
            "not one archive", name, value=sorted(roots)[:4], allowed="one folder, each name once, no comment"
        )
    for member in members:
        inside = member.filename.partition("/")[2]
        at = f"{name}:{inside}"
        if _MEMBER.fullmatch(inside) is None:
            allowed = "program, weights, constants, and the archive's own marks"
            raise _refused("holds what a program need not", at, value=member.filename, allowed=allowed)
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
            raise _refused("holds packed or encrypted members", at, allowed="stored ones")
        if inside.startswith("data/sample_inputs/") and member.file_size:
            raise _refused("holds sample inputs, which are a pickle", at, allowed="that member, empty")
        if inside.endswith(".json"):
            document = _document(archive, member, at)
            if inside == "models/model.json":
                _inspect_program(document, at)
            else:
                _inspect_payload(document, at)


def _document(archive: zipfile.ZipFile, member: zipfile.ZipInfo, at: str) -> Any:
    if member.file_size > MAX_JSON:
        raise _refused("too large", at, code="too-large", value=member.file_size, allowed=f"at most {MAX_JSON} bytes")
    return json.loads(archive.read(member))


def _inspect_payload(document: Any, at: str) -> None:
    for key, entry in document["config"].items():
        if entry["use_pickle"] is not False or _PAYLOAD.fullmatch(entry["path_name"]) is None:
            raise _refused("holds pickled tensors or objects", f"{at}:{key}", allowed="plain tensors")


def _inspect_program(document: Any, at: str) -> None:
    if document.get("guards_code"):
        raise _refused("holds code of guards", f"{at}:guards_code", allowed="an empty list")
    for key, value in _walked(document):
        match key, value:
            case (("target" | "as_operator" | "name_of_operator"), str()):
                if _TARGET.fullmatch(value) is None and value not in _PLAIN_TARGETS:
                    allowed = "torch.ops.aten, torch.ops.prims, and arithmetic on sizes"
                    raise _refused("calls what it may not", at, code="forbidden-operator", value=value, allowed=allowed)
            case "expr_str", _:
                _check_shape(value, at)
            case (("metadata" | "treespec_namedtuple_fields" | "custom_obj_values"), _) if value:
                raise _refused(f"holds {key}", f"{at}:{key}", allowed="none: it is of no use to a program that runs")
            case (("as_custom_obj" | "custom_obj"), _):
                raise _refused(
                    "holds objects of other kinds than tensors", at, value=key, allowed="tensors and numbers"
                )
            case (("in_spec" | "out_spec"), str()):
                _check_containers(json.loads(value), at)


def _walked(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value, at any depth."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            yield from one.items()
            waiting.extend(one.values())
        elif isinstance(one, list):
            waiting.extend(one)


def _check_shape(expression: Any, at: str) -> None:
    """The size of a dimension, as sympy writes it: it will be evaluated."""
    allowed = "sums, products and the like of symbols and numbers"
    if not isinstance(expression, str) or len(expression) > MAX_EXPRESSION:
        raise _refused("holds a size that is none", at, value=expression, allowed=allowed)
    for node in ast.walk(ast.parse(expression, mode="eval")):
        known = (
            isinstance(node, _SHAPE_SYNTAX)
            and (not isinstance(node, ast.Name) or node.id in _SHAPE_WORDS or _SYMBOL.fullmatch(node.id) is not None)
            and (not isinstance(node, ast.Call) or _is_plain_call(node))
            and (
                not isinstance(node, ast.Constant)
                or isinstance(node.value, bool | int | float)
                or (isinstance(node.value, str) and _SYMBOL.fullmatch(node.value) is not None)
            )
        )
        if not known:
            raise _refused("holds a size that is none", at, value=expression, allowed=allowed)


def _is_plain_call(call: ast.Call) -> bool:
    """A function by its name; a power only to a small number, since the power of a power can take for ever."""
    if not isinstance(call.func, ast.Name):
        return False
    if call.func.id != "Pow":
        return True
    return len(call.args) == 2 and ast.unparse(call.args[1]) in _POWERS


def _check_containers(spec: Any, at: str) -> None:
    """How inputs and outputs are nested: [version, {type, context, children_spec}], contexts being JSON text."""
    version, root = spec
    waiting = [root]
    while waiting:
        one = waiting.pop()
        context = json.loads(one["context"]) if one["context"] is not None else None
        names = isinstance(context, list) and all(isinstance(name, str) for name in context)
        if version != 1 or one["type"] not in _CONTAINERS or not (context is None or names):
            raise _refused(
                "takes or gives other things than tensors", at, value=one["type"], allowed="tuples, lists, dicts"
            )
        waiting.extend(one["children_spec"])


def _refused(
    message: str, field: str, *, code: str = "forbidden-content", value: object = None, allowed: str | None = None
) -> Refused:
    return Refused(message, kind=Refusal.UNPROCESSABLE, field=field, value=value, allowed=allowed, code=code)
