"""The three laws and the house rules as functions over source text, so that planted violations can prove them."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("shared", "edge_agent", "cloud_core")
BANNED_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "managers", "base"}
MAX_LINES = 300

PURE_FILES = ("shared/bundle/manifest.py", "shared/bundle/chunks.py", "shared/serving/arrangement.py")
PURE_FOLDERS = ("shared/protocol", "shared/serving/decide", "edge_agent/decide", "cloud_core/decide")
PURE_IMPORTS = {
    "__future__", "bisect", "collections", "collections.abc", "dataclasses", "enum", "functools", "hashlib", "heapq",
    "itertools", "math", "msgspec", "operator", "re", "statistics", "string", "tomllib", "types", "typing",
}  # fmt: skip
IMPURE_CALLS = {
    "open",
    "__import__",
    "eval",
    "exec",
    "compile",
    "input",
    "print",
    "globals",
    "breakpoint",
    "id",
    "hash",
}


def is_pure(path: str) -> bool:
    """Whether the law of purity holds for a file, given relative to the root."""
    return path in PURE_FILES or path.startswith(tuple(f"{folder}/" for folder in PURE_FOLDERS))


def module_is_pure(module: str) -> bool:
    """Whether an internal module may be imported by a pure one."""
    as_path = module.replace(".", "/")
    return is_pure(f"{as_path}.py") or is_pure(f"{as_path}/__init__.py") or as_path in PURE_FOLDERS


def purity(path: str, source: str) -> Iterator[str]:
    """Violations of the second law in one file; nothing for files it does not bind."""
    if not is_pure(path):
        return
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import():
                for alias in node.names:
                    if alias.name not in PURE_IMPORTS and not module_is_pure(alias.name):
                        yield f"{path}:{node.lineno}: imports {alias.name}"
            case ast.ImportFrom(module=str(module), level=0):
                whole = module in PURE_IMPORTS or module_is_pure(module)
                if not whole and not all(module_is_pure(f"{module}.{alias.name}") for alias in node.names):
                    yield f"{path}:{node.lineno}: imports from {module}"
            case ast.ImportFrom():
                yield f"{path}:{node.lineno}: relative import"
            case ast.Call(func=ast.Name(id=name)) if name in IMPURE_CALLS:
                yield f"{path}:{node.lineno}: calls {name}()"
            case ast.AsyncFunctionDef() | ast.Await() | ast.AsyncFor() | ast.AsyncWith():
                yield f"{path}:{node.lineno}: is asynchronous"
            case ast.Global() | ast.Nonlocal():
                yield f"{path}:{node.lineno}: keeps state outside its arguments"


def composition(path: str, source: str) -> Iterator[str]:
    """Violations of the third law in one file: environment reads, module state, ambient loggers and registries."""
    tree = ast.parse(source)
    name = Path(path).name
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="os"), attr="environ" | "getenv" | "environb") if name != "config.py":
                yield f"{path}:{node.lineno}: reads the environment outside config.py"
            case ast.ImportFrom(module="os", names=names) if name != "config.py" and {a.name for a in names} & {
                "environ",
                "getenv",
            }:
                yield f"{path}:{node.lineno}: reads the environment outside config.py"
            case ast.Global():
                yield f"{path}:{node.lineno}: module-level state by `global`"
            case ast.Call(func=ast.Attribute(attr="get_logger")):
                yield f"{path}:{node.lineno}: an ambient logger"
    for statement in tree.body:
        yield from _module_state(path, statement)


STATEFUL = {
    "Application", "CollectorRegistry", "Counter", "Gauge", "Histogram", "Summary", "ClientSession", "create_engine",
    "create_async_engine", "Lock", "Event", "Condition", "Queue", "ThreadPoolExecutor", "defaultdict", "deque",
    "ContextVar", "getLogger", "Random", "count",
}  # fmt: skip


def _module_state(path: str, statement: ast.stmt) -> Iterator[str]:
    if not isinstance(statement, ast.Assign | ast.AnnAssign) or statement.value is None:
        return
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    names = [target.id for target in targets if isinstance(target, ast.Name)]
    value = statement.value
    if isinstance(value, ast.Call):
        called = value.func.attr if isinstance(value.func, ast.Attribute) else getattr(value.func, "id", "")
        if called in STATEFUL:
            yield f"{path}:{statement.lineno}: {called}() at module level"
    if isinstance(value, ast.Dict | ast.List | ast.Set | ast.ListComp | ast.DictComp | ast.SetComp):
        for name in names:
            if not name.lstrip("_").isupper() and name != "__all__":
                yield f"{path}:{statement.lineno}: mutable {name} at module level (tables are constants, in capitals)"


def direction(path: str, source: str) -> Iterator[str]:
    """Violations of the first law in one file."""
    forbidden = {"shared": ("edge_agent", "cloud_core"), "edge_agent": ("cloud_core",), "cloud_core": ("edge_agent",)}
    own = path.split("/", 1)[0]
    for node in ast.walk(ast.parse(source)):
        modules = (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
        for module in modules:
            if module.split(".", 1)[0] in forbidden.get(own, ()):
                yield f"{path}:{node.lineno}: {own} imports {module}"


def house(path: str, source: str) -> Iterator[str]:
    """Violations of the house rules: names that say nothing, rooms that are crowded."""
    parts = [*Path(path).parts[:-1], Path(path).stem]
    for part in parts:
        if part in BANNED_NAMES:
            yield f"{path}: the name {part} says nothing"
    lines = source.count("\n")
    if lines > MAX_LINES:
        yield f"{path}: {lines} lines, {MAX_LINES} at most"


def sources(*folders: str) -> Iterator[tuple[str, str]]:
    """Every Python file below the folders, as (path relative to the root, text).

    What lies below a hidden folder is not ours: benchmarks install their peers into `bench/.venvs`.
    """
    for folder in folders:
        for file in sorted((ROOT / folder).rglob("*.py")):
            path = file.relative_to(ROOT)
            if not any(part.startswith(".") for part in path.parts):
                yield path.as_posix(), file.read_text()
