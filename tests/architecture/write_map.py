"""`python -m tests.architecture.write_map`: the lower half of docs/map.md, from the first sentence of every file.

The upper half, by question, is written by hand and stays as it is. A test holds the file to what this writes.
"""

import ast
from pathlib import Path

from tests.architecture.laws import PACKAGES, ROOT, sources

MAP = ROOT / "docs" / "map.md"
MARK = "<!-- From here on: python -m tests.architecture.write_map -->"


def first_line(source: str) -> str:
    """What a file says of itself in one line."""
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


def generated() -> str:
    """One table per folder: file and what it does."""
    folders: dict[str, list[tuple[str, str]]] = {}
    for path, source in sources(*PACKAGES):
        said = first_line(source)
        if said:
            folders.setdefault(Path(path).parent.as_posix(), []).append((path, said))
    parts = []
    for folder, files in sorted(folders.items()):
        parts.append(f"## `{folder}/`\n")
        parts += [f"* `{path}`: {said}" for path, said in files]
        parts.append("")
    return "\n".join(parts)


def whole(current: str) -> str:
    """The map as it should be: what people wrote above the mark, what files say below."""
    return f"{current.partition(MARK)[0]}{MARK}\n\n{generated()}"


if __name__ == "__main__":
    MAP.write_text(whole(MAP.read_text()))
