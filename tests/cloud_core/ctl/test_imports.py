"""`fleetctl models import` as a person runs it, against a real server and the loop with a stand-in for the importer."""

import asyncio
import os
import pty
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.cloud_core.api.bundles import publish
from tests.cloud_core.ctl.importing import Site, site
from tests.cloud_core.loops.importing import PUBLISHES
from tests.cloud_core.waiting import eventually


def test_from_a_folder_to_a_version(sqlite_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with site(sqlite_url, tmp_path) as here:
            source = here.source(PUBLISHES)
            (source / ".msc").write_text("the hub's own")
            (source / "inner").mkdir()
            (source / "inner" / "config.json").write_text("{}")
            (source / "inner" / "deep").mkdir()
            (source / "inner" / "model.onnx").write_text("another runtime's")
            (source / "tf_model.h5").write_text("another framework's")
            named = ("--name", "tiny", "--version", "1.0.0")
            ran = await here.fleetctl("models", "import", str(source), *named, "--description", "what it is")
            assert ran.status == 0, ran
            assert ran.out.startswith("imported tiny@1.0.0 (")
            lines = ran.err.splitlines()
            assert lines[0].startswith("reading ")
            assert lines[1] == "left out: .msc, inner/deep/, inner/model.onnx, tf_model.h5"
            assert any("uploading" in line for line in lines), lines
            assert await here.sent() == 4
            # The very same again is no work.
            again = await here.fleetctl(
                "models", "import", str(source), *named, "--description", "what it is", "--json"
            )
            assert (again.status, again.json["state"]) == (0, "completed")

            shown = await here.fleetctl("models", "show", "tiny")
            for word in (
                "VERSION",
                "1.0.0",
                "tiny@1.0.0",
                "cpu-fp32",
                "fp32",
                "same answer in any batch",
                "token:the-admin",
            ):
                assert word in shown.out, (word, shown.out)
            one = await here.fleetctl("models", "show", "tiny", "1.0.0", "--json")
            assert one.json["manifest"]["name"] == "tiny"
            assert (await here.fleetctl("models", "show", "tiny", "9.9.9")).status == 1
            listed = await here.fleetctl("models", "imports")
            assert "completed" in listed.out
            told = (await here.fleetctl("models", "imports", "--json")).json
            assert [(each["state"], each["source"]) for each in told] == [("completed", "source")]
            assert told[0]["id"] in listed.out
            detail = await here.fleetctl("models", "imports", told[0]["id"])
            assert told[0]["result"]["digest"] in detail.out

    asyncio.run(scenario())


REFUSED = {"message": "3 of 200 labels differ:\n  [b]x[/b] 正面 负面", "code": "golden-differs", "field": "golden"}


def test_exit_statuses(sqlite_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with site(sqlite_url, tmp_path) as here:

            async def ran(play: Sequence[Sequence[Any]], *more: str, version: str) -> tuple[int, str]:
                source = here.source(play, version=version)
                done = await here.fleetctl(
                    "models", "import", str(source), "--name", "tiny", "--version", version, *more
                )
                assert "Traceback" not in done.err
                assert done.out == "", done
                return done.status, done.err

            status, said = await ran([["failed", REFUSED]], version="1.0.0")
            assert status == 3
            assert "3 of 200 labels differ:\n  [b]x[/b] 正面 负面" in said
            sent = await here.sent()
            status, said = await ran([["failed", REFUSED]], "--accept-drift", "cpu-int8=0.98", version="1.0.0")
            assert (status, await here.sent()) == (3, sent), "what is there is not sent again"
            status, said = await ran([["signal", "SIGSEGV"]], version="1.0.1")
            assert (status, "SIGSEGV" in said) == (1, True)
            status, said = await ran([["failed", {"message": "no hub", "code": "unreachable"}]], version="1.0.2")
            assert (status, "no hub" in said) == (4, True)
            status, said = await ran([["complain", "No module named 'torch'"], ["exit", 1]], version="1.0.3")
            assert (status, "tideline[import]" in said) == (1, True)
            await publish(here.api.admin, "tiny", "2.0.0")
            assert (await ran(PUBLISHES, version="2.0.0"))[0] == 3
            assert (await ran(PUBLISHES, "--prune-heads", "2", version="3.0.0"))[0] == 1
            for bad in (("--accept-drift", "much"), ("--accept-drift", "cpu-int8=x"), ("--prune-heads", "many")):
                assert (await ran(PUBLISHES, *bad, version="3.0.0"))[0] == 2
            named = ("--name", "tiny", "--version", "3.0.0")
            for source, status in ((tmp_path / "absent", 1), (tmp_path / "absent.onnx", 1)):
                assert (await here.fleetctl("models", "import", str(source), *named)).status == status
            link = here.source(PUBLISHES, at="linked") / "weights.bin"
            link.symlink_to("/etc/passwd")
            linked = await here.fleetctl("models", "import", str(link.parent), *named)
            assert (linked.status, "a link" in linked.err) == (3, True)
            assert (await here.fleetctl("models", "import", str(tmp_path))).status == 2
            assert (await here.fleetctl("models", "imports", "--watch")).status == 2
            gone = await here.fleetctl(
                "models", "import", str(here.source(PUBLISHES)), *named, url="http://127.0.0.1:1"
            )
            assert gone.status == 4

    asyncio.run(scenario())


def test_interrupted_watched_cancelled(sqlite_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with site(sqlite_url, tmp_path) as here:
            gate = tmp_path / "gate"
            gate.touch()
            slow = [["say", "export", 0.5], ["wait", str(gate)], *PUBLISHES[1:]]
            said = await _at_a_terminal(here, str(here.source(slow)), until="export")
            assert "the import goes on: fleetctl models imports " in said
            assert "%" in said
            (one,) = (await here.fleetctl("models", "imports", "--json")).json
            assert one["state"] == "in_progress"
            second = await here.fleetctl(
                "models", "import", str(here.source(PUBLISHES, version="2.0.0", at="two")), "--name", "tiny",
                "--version", "2.0.0", "--detach", "--json",
            )  # fmt: skip
            assert (second.status, second.json["state"]) == (0, "queued")
            ended = await here.fleetctl("models", "imports", second.json["id"], "--cancel", "--json")
            assert (ended.status, ended.json["state"]) == (0, "cancelled")
            watched = await here.fleetctl("models", "imports", second.json["id"], "--watch")
            assert (watched.status, "was cancelled" in watched.err) == (1, True)
            gate.unlink()
            done = await here.fleetctl("models", "imports", one["id"], "--watch")
            assert (done.status, done.out.startswith("imported tiny@1.0.0")) == (0, True), done

    asyncio.run(scenario())


async def _at_a_terminal(here: Site, source: str, *, until: str) -> str:
    """What a person sees of an import they end with Ctrl-C once the word `until` is on their screen."""
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    program = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "from cloud_core.ctl.cli import main; main()",
        *("--url", here.api.url, "models", "import", source, "--name", "tiny", "--version", "1.0.0"),
        env={
            "HOME": str(here.folder),
            "PATH": os.environ["PATH"],
            "TERM": "xterm",
            "FLEETCTL_TOKEN": str(here.api.admin.token),
        },
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    seen = bytearray()

    async def shows() -> bool:
        with suppress(BlockingIOError, OSError):
            seen.extend(os.read(ours, 1 << 16))
        return until.encode() in seen

    try:
        await eventually(shows)
        program.send_signal(signal.SIGINT)
        assert await program.wait() == 1
        await shows()
        return seen.decode(errors="replace").replace("\r\n", "\n")
    finally:
        os.close(ours)
