"""What may be on a disk after a power cut, by what POSIX promises and no more: only what was fsynced is there for certain.

An fsync of a file makes its bytes durable, one of a folder its names. What was not fsynced may be there or not, so several
trees follow from one moment: nothing of it, all names but no bytes, and each changed folder's names alone. ext4's one journal
never shows the last, and hides a folder's missing fsync behind the next one of any file; other file systems do not.

`agent.db` is taken as it stands: how SQLite makes it durable is not seen from here.
"""

import os
from pathlib import Path
from typing import NamedTuple

RECORD = "agent.db"


class Tree(NamedTuple):
    """Paths below the root: bytes of files; None for folders."""

    entries: tuple[tuple[str, bytes | None], ...]

    def write(self, root):
        """Put it into `root`, a new folder."""
        root.mkdir()
        for name, data in self.entries:
            path = root / name
            if data is None:
                path.mkdir(parents=True, exist_ok=True)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
        return root


class Model:
    """Follows one folder; everything in it at the start is durable."""

    def __init__(self, root):
        self._root = Path(root)
        self._ids = {}
        self._next = 0
        self._names = {}
        self._bytes = {}
        self._folders = set()
        self._settle(self._root)

    def made(self, path):
        """Something new: an inode number that was used before means nothing."""
        self._ids[os.lstat(path).st_ino] = self._new()

    def synced(self, handle):
        """Whether that made anything durable which was not so already."""
        path = Path(f"/proc/self/fd/{handle}")
        me = self._id(os.fstat(handle).st_ino)
        kept, found = (self._names, self._listed(path)) if path.is_dir() else (self._bytes, path.read_bytes())
        before, kept[me] = kept.get(me), found
        return before != found

    def cuts(self):
        """Every tree that may be found now."""
        alive, content = {}, {}
        self._walk(self._root, alive, content)
        root = self._id(self._root.stat().st_ino)
        changed = {me for me in self._folders if alive.get(me, {}) != self._names.get(me, {})}
        found = {self._tree(root, alive, content, early) for early in (set(), changed, *({me} for me in changed))}
        return sorted(found)

    def _settle(self, folder):
        self._names[self._id(folder.stat().st_ino)] = self._listed(folder)
        for entry in os.scandir(folder):
            if entry.is_dir(follow_symlinks=False):
                self._settle(Path(entry.path))
            else:
                self._bytes[self._id(entry.inode())] = Path(entry.path).read_bytes()

    def _walk(self, folder, alive, content):
        me = self._id(folder.stat().st_ino)
        self._folders.add(me)
        alive[me] = self._listed(folder)
        for entry in os.scandir(folder):
            if entry.is_dir(follow_symlinks=False):
                self._walk(Path(entry.path), alive, content)
            elif entry.name.startswith(RECORD):
                content[self._id(entry.inode())] = Path(entry.path).read_bytes()

    def _listed(self, folder):
        names = {}
        with os.scandir(folder) as entries:
            for entry in entries:
                names[entry.name] = me = self._id(entry.inode())
                if entry.is_dir(follow_symlinks=False):
                    self._folders.add(me)
        return names

    def _tree(self, root, alive, content, early):
        entries = []

        def visit(me, path):
            for name, child in sorted((alive.get(me, {}) if me in early else self._names.get(me, {})).items()):
                where = f"{path}{name}"
                if child in self._folders:
                    entries.append((where, None))
                    visit(child, where + "/")
                elif not name.startswith(RECORD):
                    entries.append((where, self._bytes.get(child, b"")))
                elif child in content:
                    entries.append((where, content[child]))

        visit(root, "")
        return Tree(tuple(entries))

    def _id(self, inode):
        if inode not in self._ids:
            self._ids[inode] = self._new()
        return self._ids[inode]

    def _new(self):
        self._next += 1
        return self._next
