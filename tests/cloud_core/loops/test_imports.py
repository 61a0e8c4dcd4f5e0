"""The imports loop with a real child process: published once and durably, cancelled, failed with a reason, taken up after a death."""

import asyncio
import json
import subprocess
from pathlib import Path

import pytest

from cloud_core.models.trial import VersionTrials
from cloud_core.store import audit, events, versions
from cloud_core.store.database import read, write
from shared.bundle.chunks import chunks_of
from shared.io.clock import SystemClock
from shared.protocol.reported import Isolation
from shared.serving.trial.verdict import TrialLimits
from tests.cloud_core.broker.brokers import LOG
from tests.cloud_core.loops.importing import PUBLISHES, at, site, soon
from tests.cloud_core.waiting import eventually


def test_from_the_queue_to_a_version(database_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with site(database_url, tmp_path) as here:
            await here.ask(PUBLISHES, description="what it is")
            async with here.running():
                one = await here.until("completed", "failed")
                await eventually(lambda: soon(not here.sources().held()))
            assert (one.state, one.done, one.attempts, one.error) == ("completed", 1.0, 1, None)
            async with read(here.engine) as connection:
                version = await versions.get(connection, "default", "tiny", "1.0.0")
                acts = await audit.page(connection, "default")
                told = await events.after_in(connection, "default", 0)
            assert version is not None
            assert (version.digest, version.published_by) == (one.digest, "user:ann")
            held = here.artifacts()
            assert all(held.has(chunk.digest) for chunk in chunks_of(version.parsed.files))
            assert [(act.verb, act.resource, act.name, act.principal) for act in acts] == [
                ("create", "versions", "tiny@1.0.0", "user:ann")
            ]
            kinds = [event.kind for event in told if event.resource == "imports"]
            assert kinds[:2] == ["created", "started"]
            assert kinds[-1] == "completed"
            assert here.work() == []

    asyncio.run(scenario())


def test_progress_is_told_and_never_goes_back(sqlite_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with site(sqlite_url, tmp_path) as here:
            gate = tmp_path / "gate"
            gate.touch()
            said = [
                ["print", "a library's chatter"],
                ["say", "export", 0.6],
                ["say", "export", 0.2],
                ["wait", str(gate)],
            ]
            await here.ask([*said, *PUBLISHES[1:]])
            async with here.running():
                one = await eventually(lambda: at(here, "export"))
                assert one.state == "in_progress"
                assert 0.5 < one.done < 0.7
                assert one.detail == "export of tiny"
                gate.unlink()
                await here.until("completed")
            async with read(here.engine) as connection:
                told = await events.after_in(connection, "default", 0)
            done = [json.loads(event.data)["done"] for event in told if event.resource == "imports"]
            assert done == sorted(done)

    asyncio.run(scenario())


def test_what_the_importer_gets_and_what_it_does_not(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOUD_CORE_ADMIN_PASSWORD", "secret")
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "key").write_text("secret")

    async def scenario() -> None:
        async with site(sqlite_url, tmp_path) as here:
            signature = here.upload("signature.toml", b"x")
            play = [["tell", str(tmp_path / "secrets" / "key"), str(tmp_path / "elsewhere")]]
            problem = await here.failed(play, signature=signature, prune_heads=0.25, accept_drift={"cpu-fp32": 0.9})
            told = json.loads(problem.detail)
            assert set(told["environment"]) - {"LC_CTYPE", "PWD", "SHLVL", "_"} == {
                "PATH",
                "HOME",
                "TMPDIR",
                "PYTHONUNBUFFERED",
            }
            work = Path(told["request"]["path"]).parent
            assert told["environment"]["HOME"] == str(work / "home")
            assert told["request"]["said"] == "folder"
            assert (told["request"]["prune_heads"], told["request"]["accept_drift"]) == (0.25, {"cpu-fp32": 0.9})
            assert Path(told["request"]["signature"]).name == "signature.toml"
            assert told["modes"]["source/model.onnx"] == 0o600
            assert told["modes"]["source"] == 0o700
            assert told["group"]
            assert told["network"] == ("OSError" if _can_leave_network() else "ConnectionRefusedError")
            if not _has_landlock():
                pytest.skip("this kernel has no Landlock")
            assert (told["secret"], told["write"], told["parent"]) == ("PermissionError",) * 3

    asyncio.run(scenario())


def _can_leave_network() -> bool:
    """Whether a process here may have a network namespace of its own, in which nothing can be reached."""
    return any(subprocess.run(["unshare", flags, "true"], check=False).returncode == 0 for flags in ("-n", "-rn"))


def _has_landlock() -> bool:
    import ctypes

    return ctypes.CDLL(None).syscall(444, None, ctypes.c_size_t(0), ctypes.c_uint32(1)) > 0


FAILED = {"message": "the label differs", "code": "golden-differs", "field": "golden", "value": "3", "allowed": "0"}
ENDS = [
    ([["failed", FAILED]], "golden-differs", True, "the label differs"),
    ([["failed", {"message": "no hub", "code": "unreachable"}]], "unreachable", False, "no hub"),
    ([["signal", "SIGSEGV"]], "crashed", False, "SIGSEGV"),
    ([["complain", "ValueError: it is so"], ["exit", 3]], "crashed", False, "status 3 and said nothing of it: ValueError"),
    ([["complain", "ModuleNotFoundError: No module named 'torch'"], ["exit", 1]], "import-extra-missing", False, "torch"),
    ([["print", "{}"], ["print", "x" * (2 << 20)], ["failed", FAILED]], "golden-differs", True, "the label"),
    ([["imported"]], "no-bundle", False, "no bundle"),
    ([["bundle"], ["link"], ["imported"]], "not-a-file", False, "linked"),
]  # fmt: skip


@pytest.mark.parametrize("end", ENDS, ids=[end[1] for end in ENDS])
def test_every_end_has_its_reason(end: tuple, sqlite_url: str, tmp_path: Path) -> None:
    play, code, refused, words = end

    async def scenario() -> None:
        async with site(sqlite_url, tmp_path) as here:
            problem = await here.failed(play)
            assert (problem.code, problem.refused) == (code, refused)
            assert words in problem.detail
            assert here.work() == []
            assert here.sources().held(), "asking again sends nothing"
            async with read(here.engine) as connection:
                assert await versions.everywhere(connection, "default") == []

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("play", "limit", "code"),
    [
        ([["hang", "hung"]], {"seconds": 1.0}, "time-limit"),
        ([["eat"]], {"memory_bytes": 200 << 20}, "memory-limit"),
        ([["fill"]], {"disk_bytes": 20 << 20}, "disk-limit"),
    ],
)
def test_limits_are_held(play: list, limit: dict[str, float], code: str, sqlite_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with site(sqlite_url, tmp_path, **limit) as here:
            problem = await here.failed(play)
            # Memory may end by the kernel's own limit first; then the program says so.
            assert problem.code == code or "MemoryError" in problem.detail, problem
            assert here.work() == []

    asyncio.run(scenario())


def test_a_bundle_of_another_name_is_kept_out(sqlite_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with site(sqlite_url, tmp_path) as here:
            problem = await here.failed(PUBLISHES, made="other")
            assert problem.code == "another-model"
            assert not list(here.artifacts().list())

    asyncio.run(scenario())


def test_what_does_not_pass_its_trial_is_no_version(sqlite_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with site(sqlite_url, tmp_path) as here:
            here.gate = VersionTrials(
                tmp_path / "trials", limits=TrialLimits(), isolation=Isolation.NONE, clock=SystemClock(), log=LOG
            )
            problem = await here.failed(PUBLISHES)  # its program is a few words of text
            assert problem.refused
            assert "cpu-fp32" in problem.detail
            async with read(here.engine) as connection:
                assert await versions.everywhere(connection, "default") == []

    asyncio.run(scenario())


def test_an_environment_without_the_importer_says_so(sqlite_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with site(sqlite_url, tmp_path) as here:
            here.importer = here.importer._replace(python=str(tmp_path / "no" / "python"))
            problem = await here.failed(PUBLISHES)
            assert problem.code == "import-extra-missing"
            assert "CLOUD_CORE_IMPORT_PYTHON" in (problem.allowed or "")

    asyncio.run(scenario())


def test_a_version_that_stands_with_other_content_stays(sqlite_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with site(sqlite_url, tmp_path) as here:
            gate = tmp_path / "gate"
            gate.touch()
            await here.ask([["say", "slow", 0.1], ["wait", str(gate)], *PUBLISHES])
            async with here.running():
                await eventually(lambda: at(here, "slow"))
                async with write(here.engine) as connection:
                    from cloud_core.store import models

                    await models.create(connection, "default", "tiny", description="", now=1.0)
                    await versions.publish(
                        connection,
                        "default",
                        model="tiny",
                        version="1.0.0",
                        digest="d",
                        manifest="{}",
                        published_by="x",
                        now=1.0,
                    )
                gate.unlink()
                one = await here.until("failed", "completed")
            assert one.problem is not None
            assert (one.problem.code, one.problem.refused, one.digest) == ("immutable", True, None)

    asyncio.run(scenario())
