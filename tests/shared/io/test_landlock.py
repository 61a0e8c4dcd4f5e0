"""Walls in a real process: what is hidden cannot be read by any name, what may be written is one folder, and what it starts is walled in too."""

import ctypes
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.io.landlock import beside

PROBE = """
import json, os, subprocess, sys
from pathlib import Path
from shared.io.landlock import wall_in
root = Path(sys.argv[1])
walled = wall_in(hidden=[root / "data", root / "db"], writable=[root / "data" / "work", Path("/dev/null")])
def tried(act):
    try:
        act()
        return "done"
    except OSError as error:
        return type(error).__name__
work = root / "data" / "work"
print(json.dumps({
    "walled": walled,
    "hidden": tried((root / "data" / "key").read_text),
    "hidden file": tried((root / "db").read_text),
    "by link": tried((root / "open" / "link" / "key").read_text),
    "by proc": tried(lambda: os.readlink(f"/proc/{os.getppid()}/cwd")),
    "beside": tried((root / "open" / "file").read_text),
    "system": tried(Path("/etc/passwd").read_text),
    "listing": tried(lambda: os.listdir(root / "data")),
    "write beside": tried(lambda: (root / "open" / "new").write_text("x")),
    "write": tried(lambda: (work / "new").write_text("x")),
    "move": tried(lambda: (work / "new").rename(work / "newer")),
    "move out": tried(lambda: (work / "newer").rename(root / "open" / "newer")),
    "child": subprocess.run([sys.executable, "-c", f"open({str(root / 'data' / 'key')!r})"], capture_output=True).returncode,
    "child works": subprocess.run([sys.executable, "-c", "import json"], stdout=subprocess.DEVNULL).returncode,
    "kill": tried(lambda: os.kill(os.getppid(), 0)),
}))
"""


@pytest.mark.skipif(
    ctypes.CDLL(None).syscall(444, None, ctypes.c_size_t(0), ctypes.c_uint32(1)) < 6,
    reason="the kernel's Landlock is older",
)
def test_a_walled_process(tmp_path: Path) -> None:
    for folder in ("data/work", "open"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("data/key", "db", "open/file"):
        (tmp_path / file).write_text("secret")
    (tmp_path / "open" / "link").symlink_to(tmp_path / "data")
    done = subprocess.run([sys.executable, "-c", PROBE, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "walled": True, "hidden": "PermissionError", "hidden file": "PermissionError", "by link": "PermissionError",
        "by proc": "PermissionError", "beside": "done", "system": "done", "listing": "done",
        "write beside": "PermissionError", "write": "done", "move": "done", "move out": "PermissionError", "child": 1,
        "child works": 0, "kill": "PermissionError",
    }  # fmt: skip


TREE = ("a", "a/x", "a/y", "a/y/p", "b", "b/x", "b/x/p", "c")


@given(st.sets(st.sampled_from(TREE)))
def test_beside_is_everything_but_what_is_hidden(tmp_path_factory: pytest.TempPathFactory, hidden: set[str]) -> None:
    root = tmp_path_factory.getbasetemp() / "tree"
    for path in TREE:
        (root / path).mkdir(parents=True, exist_ok=True)
    closed = {root / path for path in hidden}
    allowed = set(beside(closed, root))

    def covered(path: Path) -> bool:
        return any(path == one or one in path.parents for one in allowed)

    for name in TREE:
        path = root / name
        is_hidden = any(path == one or one in path.parents for one in closed)
        is_above = any(path in one.parents for one in closed)
        assert covered(path) == (not is_hidden and not is_above), name
