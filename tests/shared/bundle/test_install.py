import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from shared.bundle import install as module
from shared.bundle.install import (
    clear_staging,
    collect_bundles,
    folder_name,
    install,
    installed,
    parse_folder_name,
    remove,
    verify_installed,
)
from shared.bundle.manifest import canonical
from shared.bundle.store import ChunkStore
from shared.protocol.errors import Corrupt, Refused, Transient
from tests.shared.bundle.bundles import bundle, file_of, sha

VARIANT = "cpu-int8"
MUTATORS = ("open", "write", "fsync", "close", "mkdir", "rename", "rmdir", "unlink")


class Died(BaseException):
    """Stands for the process's end: nothing in the program catches it."""


@pytest.fixture
def here(tmp_path):
    store = ChunkStore(tmp_path / "chunks")
    manifest, data, digest, pieces = bundle(store=store)
    return SimpleNamespace(
        store=store,
        manifest=manifest,
        data=data,
        digest=digest,
        pieces=pieces,
        bundles=tmp_path / "bundles",
        root=tmp_path,
    )


def test_a_variant_is_installed_whole_with_what_no_variant_owns(here):
    folder = install(here.data, VARIANT, here.store, here.bundles)
    assert folder == here.bundles / folder_name(here.digest, VARIANT)
    assert {path.name for path in folder.iterdir()} == {"cpu-int8.onnx", "tokenizer.json", "manifest.json"}
    assert (folder / "manifest.json").read_bytes() == here.data
    found = verify_installed(folder)
    assert (found.digest, found.variant, found.manifest) == (here.digest, VARIANT, here.manifest)
    assert installed(here.bundles) == {(here.digest, VARIANT): folder}
    assert module.total(here.bundles) == sum(path.stat().st_size for path in folder.iterdir())


def test_installing_again_changes_nothing(here):
    folder = install(here.data, VARIANT, here.store, here.bundles)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert install(here.data, VARIANT, here.store, here.bundles) == folder
    assert before == {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_two_variants_live_side_by_side(here):
    for variant in ("cpu-int8", "cpu-fp32"):
        install(here.data, variant, here.store, here.bundles)
    assert len(installed(here.bundles)) == 2


def test_a_rotten_bundle_is_replaced(here):
    folder = install(here.data, VARIANT, here.store, here.bundles)
    (folder / "cpu-int8.onnx").write_bytes(b"rot")
    assert install(here.data, VARIANT, here.store, here.bundles) == folder
    verify_installed(folder)


def test_unknown_fields_of_the_manifest_are_kept(here):
    data = b'{"later":"thing",' + here.data[1:]
    folder = install(data, VARIANT, here.store, here.bundles)
    assert (folder / "manifest.json").read_bytes() == data
    assert folder.name.startswith(sha(data))


def test_a_missing_chunk_is_refused_and_leaves_nothing(here):
    here.store.discard(here.manifest.file("cpu-int8.onnx").chunks[1].digest)
    with pytest.raises(Refused):
        install(here.data, VARIANT, here.store, here.bundles)
    assert list(here.bundles.iterdir()) == []


def test_a_rotten_chunk_is_corrupt_and_gone(here):
    digest = here.manifest.file("cpu-int8.onnx").chunks[1].digest
    path = here.store.path(digest)
    path.write_bytes(b"X" + path.read_bytes()[1:])
    with pytest.raises(Corrupt):
        install(here.data, VARIANT, here.store, here.bundles)
    assert not here.store.has(digest)
    assert list(here.bundles.iterdir()) == []


def test_chunks_that_do_not_make_up_the_file_are_corrupt(here):
    entry = here.manifest.files[0]
    other = msgspec.structs.replace(entry, sha256=sha(b"another"))
    data = canonical(msgspec.structs.replace(here.manifest, files=(other, *here.manifest.files[1:])))
    with pytest.raises(Corrupt):
        install(data, "cpu-fp32", here.store, here.bundles)
    assert list(here.bundles.iterdir()) == []


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a/b", ".hidden", "manifest.json", "-rf", "", "a\0b"])
def test_names_that_leave_the_folder_are_refused(here, path):
    bad = msgspec.structs.replace(file_of("ok", b"{}"), path=path)
    data = canonical(msgspec.structs.replace(here.manifest, files=(*here.manifest.files, bad)))
    with pytest.raises(Refused):
        install(data, VARIANT, here.store, here.bundles)
    assert not here.bundles.exists()


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".x"])
def test_variant_names_that_leave_the_folder_are_refused(here, name):
    variants = (msgspec.structs.replace(here.manifest.variants[0], name=name),)
    data = canonical(msgspec.structs.replace(here.manifest, variants=variants))
    with pytest.raises(Refused):
        install(data, name, here.store, here.bundles)
    assert not here.bundles.exists()


def test_a_full_disk_is_said_before_anything_is_written(here, monkeypatch):
    usage = SimpleNamespace(free=5000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(Transient, match=r"needs \d+ B of disk, 5000 B are free") as caught:
        install(here.data, VARIANT, here.store, here.bundles)
    assert caught.value.why == "storage"
    assert list(here.bundles.iterdir()) == []


@pytest.mark.parametrize(
    "tamper",
    [
        lambda folder: (folder / "cpu-int8.onnx").unlink(),
        lambda folder: (folder / "cpu-int8.onnx").write_bytes((folder / "cpu-int8.onnx").read_bytes() + b"x"),
        lambda folder: (folder / "cpu-int8.onnx").write_bytes(b""),
        lambda folder: (folder / "manifest.json").write_bytes(b"{}"),
        lambda folder: (folder / "manifest.json").unlink(),
        lambda folder: (folder / ".git").write_bytes(b"extra"),
        lambda folder: (folder / "more").mkdir(),
        lambda folder: os.link(folder / "tokenizer.json", folder.parent / "outside"),
        lambda folder: os.mkfifo(folder / "pipe"),
    ],
    ids=["gone", "longer", "empty", "other manifest", "no manifest", "extra", "extra folder", "hard link", "pipe"],
)
def test_whatever_differs_is_corrupt(here, tamper):
    folder = install(here.data, VARIANT, here.store, here.bundles)
    tamper(folder)
    with pytest.raises(Corrupt):
        verify_installed(folder)


def test_a_link_or_a_pipe_in_a_files_place_is_corrupt(here):
    folder = install(here.data, VARIANT, here.store, here.bundles)
    target = folder / "tokenizer.json"
    target.rename(here.root / "aside")
    target.symlink_to(here.root / "aside")
    with pytest.raises(Corrupt, match="link"):
        verify_installed(folder)
    target.unlink()
    os.mkfifo(target)
    with pytest.raises(Corrupt, match="not a file"):
        verify_installed(folder)


def test_every_flipped_byte_is_found(here):
    folder = install(here.data, VARIANT, here.store, here.bundles)
    for path in folder.iterdir():
        good = path.read_bytes()
        for place in range(0, len(good), max(1, len(good) // 20)):
            path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
            with pytest.raises(Corrupt):
                verify_installed(folder)
        path.write_bytes(good)
    verify_installed(folder)


def test_removal_and_collection(here):
    kept = install(here.data, "cpu-fp32", here.store, here.bundles)
    gone = install(here.data, VARIANT, here.store, here.bundles)
    (here.bundles / ".staging-left").mkdir()
    (here.bundles / "notes.txt").write_text("not ours")
    assert collect_bundles(here.bundles, {(here.digest, "cpu-fp32")}).removed == 1
    assert not gone.exists()
    remove(kept)
    assert {path.name for path in here.bundles.iterdir()} == {"notes.txt"}


def test_a_folder_somebody_fills_is_no_leftover(here, monkeypatch):
    swept = []
    real = module.sync_folder
    monkeypatch.setattr(module, "sync_folder", lambda folder: (swept.append(clear_staging(here.bundles)), real(folder)))
    verify_installed(install(here.data, VARIANT, here.store, here.bundles))
    assert swept
    assert set(swept) == {0}


@pytest.mark.parametrize("name", ["x", "a" * 64, "a" * 64 + "-", "a" * 64 + "-../x", "A" * 64 + "-x", ".staging-a"])
def test_other_folders_are_not_taken_for_bundles(name):
    assert parse_folder_name(name) is None


@pytest.mark.parametrize(
    "failure", [Died(), OSError(5, "Input/output error"), OSError(28, "No space left")], ids=["died", "EIO", "ENOSPC"]
)
def test_whatever_call_it_ends_in_the_bundle_is_whole_or_absent(here, monkeypatch, failure):
    """Fail the n-th mutating call, for every n: no half bundle under its name, and the next start completes it."""
    points = 0
    for n in range(10_000):
        bundles = here.root / f"bundles-{n}"
        count = 0

        def hooked(real, n=n):
            def call(*arguments, **options):
                nonlocal count
                count += 1
                if count == n + 1:
                    raise failure
                return real(*arguments, **options)

            return call

        ended = None
        with monkeypatch.context() as patched:
            for name in MUTATORS:
                patched.setattr(os, name, hooked(getattr(os, name)))
            try:
                install(here.data, VARIANT, here.store, bundles)
            except (Died, Transient) as error:
                ended = error
        target = bundles / folder_name(here.digest, VARIANT)
        if target.exists():
            verify_installed(target)
        assert ended is None or isinstance(ended, Died if isinstance(failure, Died) else Transient)
        verify_installed(install(here.data, VARIANT, here.store, bundles))
        clear_staging(bundles)
        assert [path.name for path in bundles.iterdir()] == [target.name]
        if ended is None and count <= n:
            points = n
            break
    assert points > 15


KILLED = """
import os, signal, sys
from pathlib import Path
from shared.bundle.install import install
from shared.bundle.store import ChunkStore

n, seen = int(sys.argv[2]), 0

def killing(real):
    def call(*arguments, **options):
        global seen
        seen += 1
        if seen == n:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **options)
    return call

root = Path(sys.argv[1])
data = (root / "manifest").read_bytes()
for name in ("write", "fsync", "rename", "rmdir", "unlink"):
    setattr(os, name, killing(getattr(os, name)))
install(data, "cpu-int8", ChunkStore(root / "chunks"), root / "bundles")
"""


def test_kill_9_at_each_durable_step_is_resumed(here):
    (here.root / "manifest").write_bytes(here.data)
    died = 0
    for n in (1, 2, 4, 6, 8, 10):
        shutil.rmtree(here.bundles, ignore_errors=True)
        done = subprocess.run([sys.executable, "-c", KILLED, str(here.root), str(n)], cwd=Path.cwd(), check=False)
        died += done.returncode == -signal.SIGKILL
        target = here.bundles / folder_name(here.digest, VARIANT)
        if target.exists():
            verify_installed(target)
        verify_installed(install(here.data, VARIANT, here.store, here.bundles))
        clear_staging(here.bundles)
        assert [path.name for path in here.bundles.iterdir()] == [target.name]
    assert died >= 5
