"""Archives in the form that `torch.export.save` writes, made here without torch: each way to run code out of one is refused."""

import io
import json
import pickle
import warnings
import zipfile

import pytest

from cloud_core.models.inspect_torch import inspect_torch
from shared.protocol.errors import Refused

SPEC = '[1, {"type": "builtins.tuple", "context": "null", "children_spec": [{"type": null, "context": null, "children_spec": []}]}]'
SHAPE = "Symbol('s23', positive=True, integer=True)"


def node(target="torch.ops.aten.linear.default", **more):
    return {"target": target, "inputs": [{"name": "x", "arg": {"as_tensor": {"name": "x"}}}], "metadata": {}, **more}


def program(**changes):
    graph = {
        "inputs": [],
        "outputs": [],
        "nodes": [node(), node("_operator.mul"), node("torch.sym_max")],
        "sym_int_values": {"s": {"as_expr": {"expr_str": SHAPE, "hint": {"as_int": 2}}}},
        "custom_obj_values": {},
    }
    signature = {"in_spec": SPEC, "out_spec": SPEC, "inputs": [], "outputs": []}
    made = {
        "graph_module": {"graph": graph, "module_call_graph": [{"fqn": "", "signature": signature}], "metadata": {}},
        "guards_code": [],
        "range_constraints": {"s23": {"min_val": 1, "max_val": None}},
    }
    for path, value in changes.items():
        *parents, last = path.split("__")
        inside = made
        for parent in parents:
            inside = inside[parent]
        inside[last] = value
    return made


def config(*, pickled=False, path="weight_0"):
    return {"config": {"l.weight": {"path_name": path, "use_pickle": pickled}}}


def archive(path, model=None, *, weights=None, sample=b"", extra=(), compression=zipfile.ZIP_STORED, comment=b""):
    members = [
        ("models/model.json", json.dumps(program() if model is None else model)),
        ("data/weights/model_weights_config.json", json.dumps(weights or config())),
        ("data/weights/weight_0", bytes(32)),
        ("data/constants/model_constants_config.json", json.dumps({"config": {}})),
        ("data/sample_inputs/model.pt", sample),
        ("archive_format", "pt2"),
        ("archive_version", "0"),
        ("byteorder", "little"),
        (".data/version", "6\n"),
        *extra,
    ]
    into = io.BytesIO()
    with zipfile.ZipFile(into, "w", compression) as made:
        for name, data in members:
            made.writestr(f"m/{name}", data)
        made.comment = comment
    path.write_bytes(into.getvalue())
    return path


def refused(path):
    with pytest.raises(Refused) as caught:
        inspect_torch(path)
    assert caught.value.field.startswith(path.name)
    return caught.value.code


def test_what_is_only_data_passes(tmp_path):
    inspect_torch(archive(tmp_path / "m.pt2"))


@pytest.mark.parametrize(
    "expression",
    [
        SHAPE,
        "s27",
        "2*s27 + 1",
        "Mul(Integer(16), Symbol('s27', positive=True, integer=True))",
        "Pow(Symbol('u0'), Integer(2))",
        "s0//2",
    ],
)
def test_sizes_that_are_sizes(tmp_path, expression):
    inspect_torch(archive(tmp_path / "m.pt2", program(range_constraints={"a": {"expr_str": expression}})))


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').system('id')",
        "Symbol('s0').__class__",
        "(lambda: 1)()",
        "open('/etc/passwd')",
        "Symbol('__import__')",
        "[s0 for s0 in ()]",
        "Integer(9)**Integer(9)**Integer(9)",
        "Pow(Pow(9, 9), 9)",
        "Pow(9, s0)",
        "f'{s0}'",
        "s0.bit_length()",
        "s0; s1",
        "",
        "s0 +" + " s0 +" * 300 + " s0",
        5,
        None,
    ],
)
def test_sizes_that_are_code(tmp_path, expression):
    path = archive(tmp_path / "m.pt2", program(range_constraints={"a": {"expr_str": expression}}))
    assert refused(path) == "forbidden-content"


@pytest.mark.parametrize(
    "target",
    ["torch.os.system", "math.sin", "_operator.attrgetter", "_operator.methodcaller", "torch.ops.load_library", "#evil:x",
     "torch.ops.aten.linear", "torch.ops.mine.evil.default", "torch.ops.aten.x.default.__globals__", "torch.hub.load", ""],
)  # fmt: skip
def test_operators_that_are_none(tmp_path, target):
    for model in (program(graph_module__graph__nodes=[node(target)]), program(x={"as_operator": target})):
        assert refused(archive(tmp_path / "m.pt2", model)) == "forbidden-operator"


@pytest.mark.parametrize(
    "model",
    [
        program(guards_code=["__import__('os')"]),
        program(graph_module__graph__nodes=[node(metadata={"stack_trace": "File /home/somebody"})]),
        program(graph_module__graph__custom_obj_values={"a": {}}),
        program(x={"as_custom_obj": {"name": "a"}}),
        program(graph_module__module_call_graph=[{"signature": {"in_spec": SPEC.replace("builtins.tuple", "collections.defaultdict")}}]),
        program(graph_module__module_call_graph=[{"signature": {"out_spec": SPEC.replace('"null"', '"{\\"__enum__\\": 1}"')}}]),
        program(graph_module__module_call_graph=[{"signature": {"out_spec": "[2]"}}]),
        program(graph_module__module_call_graph=[{"signature": {"out_spec": "nope"}}]),
        [],
        "text",
    ],
    ids=["guards", "metadata", "objects", "object", "defaultdict", "enum", "spec", "no-json", "list", "text"],
)  # fmt: skip
def test_programs_that_say_more_than_they_should(tmp_path, model):
    assert refused(archive(tmp_path / "m.pt2", model)) == "forbidden-content"


@pytest.mark.parametrize(
    "options",
    [
        {"sample": pickle.dumps((1,))},
        {"weights": config(pickled=True)},
        {"weights": config(path="../weight_0")},
        {"weights": {"config": {"a": {}}}},
        {"extra": [("data/aotinductor/model.so", b"\x7fELF")]},
        {"extra": [("extra/code.py", b"")]},
        {"extra": [("../escape", b"")]},
        {"extra": [("data/constants/custom_obj_0", b"")]},
        {"extra": [("byteorder", b"big")]},
        {"compression": zipfile.ZIP_DEFLATED},
        {"comment": b"another archive"},
    ],
    ids=["sample", "pickled", "path", "config", "library", "code", "escape", "object", "twice", "packed", "comment"],
)
def test_members_an_archive_may_not_have(tmp_path, options):
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # of a name that stands twice
        path = archive(tmp_path / "m.pt2", **options)
    assert refused(path) == "forbidden-content"


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04" + bytes(100), pickle.dumps({}), b"{}"])
def test_no_archive_at_all(tmp_path, data):
    (tmp_path / "m.pt2").write_bytes(data)
    assert refused(tmp_path / "m.pt2") == "forbidden-content"
