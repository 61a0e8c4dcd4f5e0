"""A small ext4 file system on a loop device, and copies of its live image: what a power cut would leave on the disk.

The journal commits only when somebody asks (`commit=300`), and a rename allocates nothing early (`noauto_da_alloc`): what is on
the image then is what was made durable, and nothing that was merely lucky. A copy replays its journal when it is mounted.
"""

import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

SIZE = 12 << 20


def _run(*words):
    subprocess.run(words, check=True, capture_output=True, timeout=60)


@contextmanager
def mounted(image, *options):
    folder = Path(tempfile.mkdtemp(prefix="mounted-", dir=image.parent))
    _run("mount", "-t", "ext4", "-o", ",".join(("loop", *options)), str(image), str(folder))
    try:
        yield folder
    finally:
        _run("umount", str(folder))
        folder.rmdir()


def why_not():
    """Why nothing can be mounted here; None where it can."""
    if os.geteuid() != 0:
        return "mounting needs root"
    with tempfile.TemporaryDirectory() as folder:
        try:
            with mounted(made(Path(folder) / "image")):
                return None
        except (OSError, subprocess.SubprocessError) as error:
            return f"no loop device can be mounted here: {error}"


def made(image):
    with image.open("wb") as file:
        file.truncate(SIZE)
    _run("mkfs.ext4", "-q", "-J", "size=1", str(image))
    return image


class Disk:
    """A mounted image; `cut()` gives its bytes as a power cut would leave them now."""

    def __init__(self, image, root):
        self.image = image
        self.root = root
        self._others = 0

    def cut(self):
        return self.image.read_bytes()

    def unrelated_fsync(self):
        """What another program's fsync does: the journal commits, with everything that had been done to names by then."""
        self._others += 1
        handle = os.open(self.root / "unrelated", os.O_WRONLY | os.O_CREAT)
        try:
            os.write(handle, b"%d" % self._others)
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def disk(image, content=None):
    """A disk for writing: a new one, or one that begins with `content`."""
    if content is None:
        made(image)
    else:
        image.write_bytes(content)
    with mounted(image, "commit=300", "noauto_da_alloc") as root:
        yield Disk(image, root)


@contextmanager
def after(content, folder):
    """What is found after a power cut that left `content`."""
    handle, name = tempfile.mkstemp(prefix="cut-", dir=folder)
    os.close(handle)
    image = Path(name)
    image.write_bytes(content)
    try:
        with mounted(image) as root:
            yield root
    finally:
        image.unlink()


def killed_at(image, folder, program, *, files, call, n):
    """How `program`, given the folder `agent` of the image, ended by its n-th `call` on one of `files` there, and the disk then."""
    with disk(folder / "image", image) as there:
        words = ["strace", "-f", "-qq", "-o", "/dev/null"]
        for name in files:
            words += ["-P", str(there.root / "agent" / name)]
        words += ["-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={n}"]
        done = subprocess.run(
            [*words, sys.executable, "-c", program, str(there.root / "agent")],
            capture_output=True,
            text=True,
            cwd=Path.cwd(),
            check=False,
            timeout=60,
        )
        return done, there.cut()
