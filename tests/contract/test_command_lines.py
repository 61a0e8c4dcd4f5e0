"""Section 2: three commands. Exit statuses, one line for a bad setting, and JSON from everything that prints."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
import typer

import cloud_core.cli
import cloud_core.config
import cloud_core.ctl.cli
import edge_agent.cli
import edge_agent.config
from shared.serving.faces.grpc_site import port_for

PROGRAMS = {"cloud-core": cloud_core.cli, "edge-agent": edge_agent.cli, "fleetctl": cloud_core.ctl.cli}
PREFIXES = ("CLOUD_CORE_", "EDGE_AGENT_", "FLEETCTL_")
SERVERS = {("cloud-core", "serve"), ("cloud-core", "replica"), ("edge-agent", "run"), ("edge-agent", "serve")}
"""They run until they are told to stop, and log."""


class Ran(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def run(name: str, *arguments: str, **environment: str) -> Ran:
    """The program's own entry point, in this process because starting one takes a second."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        for known in os.environ:
            if known.startswith(PREFIXES):
                patch.delenv(known)
        for key, value in environment.items():
            patch.setenv(key, value)
        patch.setattr(sys, "argv", [name, *arguments])
        try:
            PROGRAMS[name].main()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    return Ran(status, out.getvalue(), err.getvalue())


def line_of(ran: Ran, name: str) -> str:
    """The one line it said."""
    assert not ran.out, ran.out
    (line,) = ran.err.splitlines()
    assert line.startswith(f"{name}: ")
    return line


def commands() -> Iterator[tuple[tuple[str, ...], list[str]]]:
    def walk(command: Any, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], list[str]]]:
        below = getattr(command, "commands", None)
        if below is None:
            yield words, [option for parameter in command.params for option in parameter.opts]
        for name, each in (below or {}).items():
            yield from walk(each, (*words, name))

    for name, module in PROGRAMS.items():
        yield from walk(typer.main.get_command(module.cli), (name,))


EVERY = dict(commands())


def test_the_commands_of_the_contract_are_there() -> None:
    expected = {
        ("cloud-core", "serve"), ("cloud-core", "migrate"), ("cloud-core", "replica"), ("cloud-core", "demo"),
        ("cloud-core", "user", "add"), ("cloud-core", "token", "create"),
        ("edge-agent", "run"), ("edge-agent", "serve"), ("edge-agent", "enrol"), ("edge-agent", "status"),
        ("edge-agent", "tune"), ("edge-agent", "infer"), ("fleetctl", "login"), ("fleetctl", "top"),
    }  # fmt: skip
    assert expected <= EVERY.keys()
    assert {words[1] for words in EVERY if words[0] == "fleetctl"} >= {
        "login",
        "models",
        "devices",
        "groups",
        "policies",
        "top",
    }
    for words in SERVERS:
        assert {"--host", "--port"} <= set(EVERY[words]), words
    assert "--uds" in EVERY["edge-agent", "serve"]
    for words in SERVERS - {("cloud-core", "serve")}:
        assert "--grpc-port" in EVERY[words], words
    assert "--role" in EVERY["cloud-core", "serve"]


@pytest.mark.parametrize("words", sorted(EVERY.keys() - SERVERS), ids=" ".join)
def test_everything_that_prints_prints_json(words: tuple[str, ...]) -> None:
    assert "--json" in EVERY[words]


@pytest.mark.parametrize("words", sorted(EVERY), ids=" ".join)
def test_an_unknown_option_is_a_usage_error_in_one_line(words: tuple[str, ...]) -> None:
    ran = run(*words, "--no-such-option")
    assert ran.status == 2
    assert "--no-such-option" in line_of(ran, words[0])


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_is_no_error_and_no_command_is_one(name: str) -> None:
    assert run(name, "--help").status == 0
    assert run(name).status == 2
    assert run(name, "no-such-command").status == 2


BAD_SETTINGS = [
    ("edge-agent", "port", 70000, "65535"),
    ("edge-agent", "grpc_port", -2, "-1 to 65535"),
    ("edge-agent", "threads", 0, "1"),
    ("edge-agent", "log_level", "loud", "debug"),
    ("cloud-core", "gateway_port", -1, "65535"),
    ("cloud-core", "replica_grpc_port", 70000, "-1 to 65535"),
    ("cloud-core", "replicas", -1, "0"),
    ("cloud-core", "log_level", "loud", "debug"),
    ("cloud-core", "database_url", "mysql://x", "sqlite+aiosqlite"),
]
STARTS = {"edge-agent": ("run", "EDGE_AGENT_"), "cloud-core": ("serve", "CLOUD_CORE_")}
"""The command that reads settings, and the prefix of its environment."""


@pytest.mark.parametrize(("name", "setting", "value", "allowed"), BAD_SETTINGS)
def test_a_bad_setting_is_one_line_from_every_source(
    tmp_path: Path, name: str, setting: str, value: Any, allowed: str
) -> None:
    command, prefix = STARTS[name]
    file = tmp_path / "settings.toml"
    file.write_text(f"{setting} = {json.dumps(value)}\n")
    for ran in (
        run(name, command, f"--{setting.replace('_', '-')}={value}"),
        run(name, command, **{f"{prefix}{setting.upper()}": str(value)}),
        run(name, command, "--config", str(file)),
    ):
        assert ran.status == 2
        said = line_of(ran, name)
        assert setting in said
        assert str(value) in said
        assert allowed in said


@pytest.mark.parametrize("name", STARTS)
def test_what_is_no_setting_or_no_number_is_one_line(tmp_path: Path, name: str) -> None:
    command, prefix = STARTS[name]
    file = tmp_path / "settings.toml"
    file.write_text("colour = 1\n")
    for ran, words in (
        (run(name, command, "--config", str(file)), ("colour", str(file), "got 1")),
        (run(name, command, **{f"{prefix}COLOUR": "blue"}), (f"{prefix}COLOUR", "blue")),
        (run(name, command, "--port", "eighty"), ("port", "eighty", "integer")),
        (run(name, command, **{f"{prefix}LOG_INPUTS": "perhaps"}), ("log_inputs", "perhaps", "true or false")),
        (run(name, command, "--config", str(tmp_path / "none.toml")), ("config", "none.toml")),
        (
            run(name, command, **{f"{prefix}LOG_FILE": "/proc/none/log"}),
            ("log_file", "/proc/none/log", "can be written"),
        ),
    ):
        assert ran.status == 2, ran
        said = line_of(ran, name)
        assert all(word in said for word in words), said


@pytest.mark.parametrize(
    ("settings", "prefix", "read"),
    [
        (cloud_core.config.Settings, "CLOUD_CORE_", cloud_core.config.read),
        (edge_agent.config.Settings, "EDGE_AGENT_", edge_agent.config.read),
    ],
)
def test_flags_win_over_environment_over_file_over_defaults(
    settings: Any, prefix: str, read: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(os.environ):
        if name.startswith(prefix):
            monkeypatch.delenv(name)
    file = tmp_path / "settings.toml"
    assert read({}).log_level == settings().log_level == "info"
    file.write_text('log_level = "debug"\n')
    assert read({}, file).log_level == "debug"
    monkeypatch.setenv(f"{prefix}LOG_LEVEL", "warning")
    assert read({}, file).log_level == "warning"
    assert read({"log_level": "error"}, file).log_level == "error"
    assert msgspec.structs.asdict(settings(log_level="error")) == msgspec.structs.asdict(
        read({"log_level": "error"}, file)
    )


def test_the_addresses_of_the_contract() -> None:
    cloud, edge = cloud_core.config.Settings(), edge_agent.config.Settings()
    assert (cloud.host, cloud.api_port, cloud.gateway_port, cloud.replica_port) == ("127.0.0.1", 8080, 8081, 8200)
    assert (cloud.replica_host, cloud.mqtt_host, cloud.mqtt_port) == ("127.0.0.1", "127.0.0.1", 1883)
    assert cloud.database_url == "sqlite+aiosqlite:///./tideline.db"
    assert (edge.host, edge.port) == ("127.0.0.1", 8090)
    assert port_for(edge.grpc_port, edge.port) == 8091
    assert port_for(cloud.gateway_grpc_port, cloud.gateway_port) == 8082
    for i in range(3):
        http, grpc = cloud.replica_ports(i)
        assert (http, port_for(grpc, http)) == (8200 + 2 * i, 8201 + 2 * i)


@pytest.mark.parametrize("settings", [cloud_core.config.Settings, edge_agent.config.Settings])
def test_every_setting_is_read_somewhere(settings: Any) -> None:
    """A setting that does nothing is a lie."""
    module = sys.modules[settings.__module__]
    folder = Path(str(module.__file__)).parent
    code = "\n".join(file.read_text() for file in folder.rglob("*.py"))
    for name in settings.__struct_fields__:
        assert f".{name}" in code, name


def test_nobody_there_is_4_and_nothing_there_is_1(tmp_path: Path) -> None:
    nowhere = "http://127.0.0.1:1"
    for words in (
        ("fleetctl", "--url", nowhere, "models", "list"),
        ("fleetctl", "--url", nowhere, "top", "--once", "--json"),
        ("fleetctl", "--url", nowhere, "login", "--password", "x"),
        ("edge-agent", "infer", "m", "t", "--url", nowhere),
        ("edge-agent", "status", "--url", nowhere),
        ("edge-agent", "enrol", "--enrol-url", nowhere, "--enrol-token", "t", "--state-dir", str(tmp_path / "s")),
        ("cloud-core", "user", "add", "ann", "--database-url", "postgresql+asyncpg://u@127.0.0.1:1/x"),
    ):
        ran = run(*words, HOME=str(tmp_path))
        assert (ran.status, len(ran.err.splitlines())) == (4, 1), (words, ran)
    for words in (
        ("edge-agent", "serve", str(tmp_path / "none.onnx"), "--port", "0"),
        ("edge-agent", "status", "--state-dir", str(tmp_path / "none")),
    ):
        ran = run(*words)
        assert (ran.status, len(ran.err.splitlines())) == (1, 1), (words, ran)


def test_people_and_tokens_are_made_with_json_and_without(tmp_path: Path) -> None:
    where = {"CLOUD_CORE_DATABASE_URL": f"sqlite+aiosqlite:///{tmp_path / 'r.db'}"}
    assert run("cloud-core", "migrate", "--json", **where).json == {"migrated": True}
    made = run("cloud-core", "user", "add", "ann", "--role", "operator", "--json", **where)
    assert made.json.keys() == {"tenant", "name", "role", "password"}
    assert run("cloud-core", "user", "add", "ann", **where).status == 1
    token = run("cloud-core", "token", "create", "ci", "--json", **where)
    assert token.json.keys() == {"tenant", "name", "role", "token"}
    plain = run("cloud-core", "token", "create", "cj", **where)
    assert len(plain.out.splitlines()) == 1
    for bad in (("user", "add", "bob", "--role", "cook"), ("token", "create", "x", "--valid-s", "-1")):
        ran = run("cloud-core", *bad, **where)
        assert (ran.status, len(ran.err.splitlines())) == (2, 1), ran


def test_the_installed_command_ends_as_its_entry_point_does() -> None:
    command = Path(sys.executable).with_name("edge-agent")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(PREFIXES)}
    done = subprocess.run([command, "run", "--port", "x"], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, len(done.stderr.splitlines()), done.stdout) == (2, 1, "")
