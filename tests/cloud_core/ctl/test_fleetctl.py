"""fleetctl as a person runs it: a process of its own against a real server; exit statuses, JSON, a session only its owner reads."""

import asyncio
import stat
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cloud_core.store import devices, generations
from cloud_core.store.database import write
from shared.bundle.manifest import canonical, digest_of
from shared.protocol.desired import Order
from shared.protocol.reported import Birth, Convergence, Hardware, ModelReport, ModelState, Reported, Tuned
from shared.protocol.telemetry import Histogram, Host, RequestCount, Sample, observe
from shared.serving.arrangement import Arrangement
from tests.cloud_core.api.bundles import bundle
from tests.cloud_core.api.server import PASSWORD, Running, running
from tests.cloud_core.ctl.shell import Shell

HARDWARE = Hardware(hardware_class="box", machine="x86_64", cpus=4, memory_bytes=1 << 30)


def _source(folder: Path, version: str = "1.0.0") -> str:
    """A bundle on disk."""
    manifest, pieces = bundle(version=version)
    folder.mkdir()
    (folder / "manifest.json").write_bytes(canonical(manifest))
    (folder / "model.onnx").write_bytes(b"".join(pieces))
    return str(folder)


async def _alive(api: Running, name: str) -> None:
    """What the loops would write of a device that runs."""
    now = time.time()
    latency = observe(observe(Histogram(), 0.004), 0.006)
    counts = (
        RequestCount(
            model="tiny", version="1.0.0", where="local", outcome="ok", reason="local-first", count=2, latency=latency
        ),
    )
    host = Host(cpu=0.5, memory=0.25, disk_free_bytes=1, agent_memory_bytes=1)
    sample = Sample(seq=1, started_at=now - 10, ended_at=now, host=host, requests=counts)
    from cloud_core.decide.summary import summary_of

    summary = summary_of([sample])
    assert summary is not None
    digest = digest_of(canonical(bundle()[0]))
    model = ModelReport(name="tiny", version="1.0.0", digest=digest, state=ModelState.READY, active=True)
    reported = Reported(
        epoch=1,
        seq=1,
        at=now,
        applied=Order(1, 3),
        target=Order(1, 4),
        convergence=Convergence.CONVERGING,
        models=(model,),
        tuned=(Tuned(digest=digest, variant="cpu-fp32", arrangement=Arrangement(lanes=2), seconds={"1": 0.0031}),),
    )
    birth = Birth(epoch=1, at=now, agent_version="0.1", hardware=HARDWARE, state_digest="")
    async with write(api.engine) as connection:
        assert await devices.record_birth(connection, "default", name, birth, now=now)
        assert await devices.record_report(connection, "default", name, reported, now=now)
        await devices.record_telemetry(connection, {("default", name): summary}, now=now)
        for number in (3, 4):
            await generations.add(
                connection,
                generations.Stored(
                    tenant="default",
                    device=name,
                    epoch=1,
                    number=number,
                    content_digest="",
                    payload="{}",
                    key_id="",
                    signature="",
                    why="new-assignment",
                    created_at=now,
                ),
            )


def test_a_day_of_an_operator(sqlite_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(sqlite_url, tmp_path) as api:
            fleetctl = Shell(api.url, tmp_path)
            said = await fleetctl.fresh("login", "--password-stdin", stdin=f"{PASSWORD}\n")
            assert said.status == 0, said.err
            session = tmp_path / ".config" / "tideline" / "fleetctl.json"
            assert stat.S_IMODE(session.stat().st_mode) == 0o600
            assert PASSWORD not in session.read_text()

            async def done(*arguments: str, stdin: str = "") -> Any:
                ran = await fleetctl(*arguments, "--json", stdin=stdin)
                assert ran.status == 0, (arguments, ran.err)
                assert ran.err == ""
                return ran.json

            assert (await done("models", "publish", _source(tmp_path / "one")))["version"] == "1.0.0"
            assert (await done("models", "publish", str(tmp_path / "one")))["version"] == "1.0.0"
            assert [model["versions"] for model in await done("models", "list")] == [["1.0.0"]]
            assert (await done("models", "show", "tiny"))[0]["variants"] == ["cpu-fp32"]
            (same,) = (await done("models", "diff", "tiny@1.0.0", "tiny@1.0.0"))["variants"]
            assert (same["variant"], same["moved"], same["share"]) == ("cpu-fp32", 0, 0.0)
            assert same["size"] > 0
            store = await done("models", "chunks")
            assert (store["needed"]["chunks"], store["spare"], store["young"]["chunks"]) == (
                2,
                {"chunks": 0, "bytes": 0},
                0,
            )
            await done("groups", "create", "shops")
            made = await done("devices", "create", "till-1", "--group", "shops")
            assert made["enrol_token"]
            await done("devices", "create", "till-2")
            assert (await done("groups", "add", "shops", "till-2"))["devices"] == ["till-1", "till-2"]
            assert (await done("groups", "remove", "shops", "till-2"))["devices"] == ["till-1"]
            policy = tmp_path / "fast.toml"
            policy.write_text('mode = "fastest"\n')
            assert (await done("policies", "set", "fast", str(policy)))["revision"] == 1
            assert (await done("policies", "set", "fast", "-", stdin='{"mode": "cascade"}'))["revision"] == 2
            assert (await done("policies", "show", "fast"))["document"]["mode"] == "cascade"
            windowed = ("groups", "assign", "shops", "--model", "tiny@1.0.0", "--download-window", "22:00-05:30")
            assert (await done(*windowed))["limits"]["download_window"] == "22:00-05:30"
            ran = await fleetctl(*windowed[:-1], "later")
            assert ran.status == 3
            assert "limits.download_window" in ran.err
            assigned = await done("groups", "assign", "shops", "--model", "tiny@1.0.0/cpu-fp32", "--policy", "fast")
            assert assigned["models"] == [{"name": "tiny", "version": "1.0.0", "variant": "cpu-fp32", "tuned": {}}]
            await _alive(api, "till-1")
            assert [device["device"] for device in await done("devices", "list")] == ["till-1", "till-2"]

            shown = (await fleetctl.fresh("devices", "list")).out
            (line,) = [line for line in shown.splitlines() if line.startswith("till-1")]
            for word in ("online", "3/4", "converging", "tiny@1.0.0 ready", "2 (2 local)", "ms", "s ago"):
                assert word in line, (word, line)
            (line,) = [line for line in shown.splitlines() if line.startswith("till-2")]
            assert "never" in line
            top = (await fleetctl("top", "--once")).out
            assert "1 of 2 devices online" in top
            for command in (
                ("devices", "show", "till-1"),
                ("devices", "list", "--group", "shops"),
                ("groups", "list"),
                ("policies", "list"),
                ("policies", "show", "fast"),
                ("models", "list"),
                ("models", "show", "tiny"),
                ("models", "diff", "tiny@1.0.0", "tiny@1.0.0"),
                ("models", "chunks"),
            ):
                ran = await fleetctl(*command)
                assert (ran.status, ran.err) == (0, ""), command
                assert ran.out
            assert (
                "tiny@1.0.0 cpu-fp32, onnxruntime, 2 x 1 threads: 3.1 ms alone"
                in (await fleetctl("devices", "show", "till-1")).out
            )
            (told,) = (await done("groups", "assign", "shops", "--model", "tiny@1.0.0", "--tuned"))["models"]
            assert list(told["tuned"]) == ["box"]
            assert (told["variant"], told["tuned"]["box"]["variant"]) == (None, "cpu-fp32")
            assert told["tuned"]["box"]["arrangement"]["lanes"] == 2
            assert "as measured on box" in (await fleetctl("groups", "list")).out
            await done("groups", "unassign", "shops")
            await done("devices", "delete", "till-1")

    asyncio.run(scenario())


def test_exit_statuses(sqlite_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(sqlite_url, tmp_path) as api:
            viewer = await api.client("viewer")
            assert viewer.token is not None
            assert api.admin.token is not None
            nobody = Shell(api.url, tmp_path)
            weak = Shell(api.url, tmp_path, FLEETCTL_TOKEN=viewer.token)
            strong = Shell(api.url, tmp_path, FLEETCTL_TOKEN=api.admin.token)
            cases: Sequence[tuple[Shell, int, tuple[str, ...]]] = (
                (nobody, 3, ("devices", "list")),
                (nobody, 3, ("login", "--password", "wrong password")),
                (weak, 0, ("devices", "list", "--json")),
                (weak, 3, ("devices", "create", "till")),
                (strong, 1, ("devices", "show", "absent")),
                (strong, 1, ("models", "publish", str(tmp_path / "absent"))),
                (strong, 1, ("models", "diff", "tiny@1.0.0", "tiny@9.0.0")),
                (strong, 2, ("models", "diff", "tiny", "tiny@1.0.0")),
                (strong, 2, ("devices", "paint")),
                (strong, 2, ("groups", "assign", "shops", "--model", "tiny")),
                (strong, 2, ("groups", "assign", "shops")),
            )
            for shell, status, arguments in cases:
                ran = await shell(*arguments)
                assert ran.status == status, (arguments, ran)
                assert (ran.err == "") == (status == 0)
                assert "Traceback" not in ran.err
            refused = await strong.fresh("policies", "set", "p", "-", stdin='{"mode": "psychic"}')
            assert refused.status == 3
            assert "$.mode" in refused.err
            gone = await strong("devices", "list", url="http://127.0.0.1:1")
            assert gone.status == 4
            assert "not reachable" in gone.err

    asyncio.run(scenario())


def test_a_token_is_told_only_to_the_server_that_gave_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cloud_core.ctl import config

    monkeypatch.delenv("FLEETCTL_TOKEN", raising=False)
    monkeypatch.delenv("FLEETCTL_URL", raising=False)
    file = tmp_path / "session.json"
    config.keep(file, config.Session(url="http://one", token="secret"))
    assert config.read(url=None, file=file).token == "secret"
    assert config.read(url="http://one/", file=file).token == "secret"
    assert config.read(url="http://two", file=file).token is None
    monkeypatch.setenv("FLEETCTL_URL", "http://two")
    assert config.read(url=None, file=file).token is None
    monkeypatch.setenv("FLEETCTL_TOKEN", "given")
    assert config.read(url=None, file=file).token == "given"
