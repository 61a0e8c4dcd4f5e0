"""A hook before every file operation that Python code does in a folder, and a way to leave out any one fsync.

SQLite's own writes do not pass here: `test_power_cut_record` cuts those.
"""

import os
import threading
from contextlib import contextmanager
from pathlib import Path

CHANGING = ("write", "fsync", "close", "ftruncate", "fchmod")
NAMED = ("open", "mkdir", "rmdir", "unlink", "remove", "rename", "replace", "link", "symlink", "truncate", "chmod")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class Cuts:
    """`before(operation)` is called ahead of each operation below `root`, `synced(handle)` after each fsync that was done.

    `fsyncs` are the paths of all that were asked for; `without` is the number of the one that is left out, from 1. `idle`
    are the numbers of those that `synced` says had nothing to do. `costly`: they are done, and not only told.
    """

    def __init__(self, root, before, *, synced=lambda handle: None, made=lambda path: None, without=0, costly=True):
        self.fsyncs = []
        self.idle = set()
        self._root = str(root)
        self._before = before
        self._synced = synced
        self._made = made
        self._without = without
        self._costly = costly
        self._turn = threading.RLock()
        self._inside = threading.local()

    @contextmanager
    def armed(self):
        real = {name: getattr(os, name) for name in (*CHANGING, *NAMED)}
        try:
            for name, call in real.items():
                setattr(os, name, self._hooked(name, call))
            yield self
        finally:
            for name, call in real.items():
                setattr(os, name, call)

    def _hooked(self, name, real):
        def call(*arguments, **options):
            if getattr(self._inside, "yes", False):
                return real(*arguments, **options)
            with self._turn:
                self._inside.yes = True
                try:
                    where = self._place(name, arguments, options)
                    if where is None:
                        return real(*arguments, **options)
                    self._before(f"{name} {where}")
                    if name == "fsync":
                        return self._fsync(real, arguments[0], where)
                    fresh = name in ("open", "mkdir") and not os.path.lexists(where)
                    done = real(*arguments, **options)
                    if fresh:
                        self._made(where)
                    return done
                finally:
                    self._inside.yes = False

        return call

    def _fsync(self, real, handle, where):
        self.fsyncs.append(where)
        if len(self.fsyncs) == self._without:
            return
        if self._costly:
            real(handle)
        if self._synced(handle) is False:
            self.idle.add(len(self.fsyncs))

    def _place(self, name, arguments, options):
        """The path an operation is about, if it changes something below the root."""
        if name in CHANGING:
            where = _path_of(arguments[0])
        else:
            if name == "open" and not arguments[1] & WRITING:
                return None
            folder = options.get("dir_fd")
            where = str(Path("." if folder is None else _path_of(folder) or ".").absolute() / arguments[0])
        return where if where is not None and f"{where}/".startswith(f"{self._root}/") else None


def _path_of(handle):
    try:
        return str(Path(f"/proc/self/fd/{handle}").readlink())
    except OSError:
        return None
