"""`fleetctl load` as a person runs it, against a real edge agent."""

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web

from cloud_core.ctl.load import shown
from cloud_core.ctl.load.cpu import Cpu
from cloud_core.ctl.load.run import Found, Wish, measure
from cloud_core.ctl.progress import steps
from cloud_core.decide.capacity import Held, HeldWhy, Knee, KneeWhy, Step
from cloud_core.models.shipped import shipped_models
from shared.io.free_ports import find_ports
from shared.protocol.errors import Transient, Unavailable
from tests.cloud_core.ctl.load.playing import certificate, plan, serving
from tests.cloud_core.ctl.shell import Ran, Shell
from tests.edge_agent.test_agent import INPUT, Agent, program, running

QUICK = ("--seconds", "0.2", "--warm-up-s", "0.05")
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """The shipped sentiment model and a tensor model; a Unix socket too."""
    folder = tmp_path_factory.mktemp("edge")
    shipped = next(str(path) for path in shipped_models() if path.name == "sentiment-zh")
    double = str(program(folder / "double.onnx"))
    arguments = ("--port", "0", "--grpc-port", "-1", "--uds", str(folder / "s"))
    with running("serve", shipped, double, *arguments, folder=folder) as agent:
        assert agent.port
        yield agent


def fleetctl(folder: Path, *arguments: str, stdin: str = "") -> Ran:
    return asyncio.run(Shell("http://127.0.0.1:1", folder)("load", *arguments, stdin=stdin))


def url(edge: Agent) -> str:
    return f"http://127.0.0.1:{edge.port}"


def test_a_ladder_gives_a_table_a_picture_the_knee_and_the_rate_that_holds(edge: Agent, tmp_path: Path) -> None:
    texts, picture = tmp_path / "texts.txt", tmp_path / "load.png"
    texts.write_text("味道很好\n\n等了一个小时，菜还是凉的\n")
    asked = ("--model", "sentiment-zh", "--texts", str(texts), "--clients", "1,2,4", "--p99-ms", "20000", *QUICK)
    ran = fleetctl(tmp_path, url(edge), *asked, "--pid", str(edge.process.pid), "--png", str(picture))
    assert ran.status == 0, ran
    head, *rows = ran.out.splitlines()
    assert head.split()[:2] == ["CLIENTS", "OFFERED/S"]
    assert f"CPU (process {edge.process.pid})" in head
    assert [row.split()[0] for row in rows[:3]] == ["1", "2", "4"]
    assert "knee" in ran.out
    assert "largest rate that holds a P99 of 20000 ms: " in ran.out
    assert picture.read_bytes().startswith(PNG)
    # Every rate of the search held so slow a bound, so it went up to the ladder's best.
    assert len(rows) == 3 + 5 + 3

    told = fleetctl(tmp_path, url(edge), *asked, "--json").json
    assert (told["texts"], told["model"], told["pid"]) == (2, "sentiment-zh", None)
    assert [step["clients"] for step in told["steps"][:3]] == [1, 2, 4]
    assert all(step["answered"] > 0 and not step["errors"] and step["throughput"] > 0 for step in told["steps"])
    assert told["knee"]["clients"] in (1, 2, 4)
    assert told["held"]["why"] == "every-rate-tried-held-it"
    assert told["stopped"] is None


def test_fixed_rates_are_an_open_loop(edge: Agent, tmp_path: Path) -> None:
    rates = ("--rate", "20,40", "--poisson", "--deadline-ms", "20000", "--api", "predict")
    ran = fleetctl(tmp_path, url(edge), "--model", "sentiment-zh", *rates, *QUICK, "--json")
    assert ran.status == 0, ran
    told = ran.json
    assert [step["rate"] for step in told["steps"]] == [20, 40]
    assert all(step["inside"] == step["asked"] == step["answered"] for step in told["steps"])
    assert (told["knee"], told["held"], told["arrivals"]) == (None, None, "poisson")
    picture = tmp_path / "rates.png"
    named = ("--p99-ms", "20000", "--png", str(picture))
    ran = fleetctl(tmp_path, url(edge), "--model", "sentiment-zh", *rates, *QUICK, *named)
    assert "largest rate that holds a P99 of 20000 ms: 40.0 requests/s" in ran.out
    assert picture.read_bytes().startswith(PNG)


def test_a_tensor_model_is_asked_with_a_body_and_over_a_unix_socket(edge: Agent, tmp_path: Path) -> None:
    body = tmp_path / "body.json"
    body.write_text(json.dumps(INPUT))
    asked = ("--model", "double", "--version", "1.0.0", "--body", str(body), "--clients", "2", *QUICK, "--json")
    for address in (url(edge), f"unix:{edge.log.parent / 's'}"):
        (step,) = fleetctl(tmp_path, address, *asked).json["steps"]
        assert step["answered"] == step["asked"] > 0


def test_what_the_server_refuses_is_told_and_not_measured(edge: Agent, tmp_path: Path) -> None:
    ran = fleetctl(tmp_path, url(edge), "--model", "no-such-model", *QUICK)
    assert ran.status == 1
    assert not ran.out
    assert "404" in ran.err
    assert "unknown model" in ran.err
    long = tmp_path / "long.txt"
    long.write_text("长" * 5000)
    ran = fleetctl(tmp_path, url(edge), "--model", "sentiment-zh", "--texts", str(long), *QUICK)
    assert ran.status == 3
    assert "422" in ran.err
    ran = fleetctl(tmp_path, f"http://127.0.0.1:{find_ports('127.0.0.1')}", "--model", "m", *QUICK)
    assert ran.status == 4
    assert "not reachable" in ran.err


REFUSED = [
    (("--clients", "0,1"), "--clients"),
    (("--clients", "4,2"), "--clients"),
    (("--clients", "many"), "--clients"),
    (("--clients", "1.5"), "--clients"),
    (("--rate", "nan"), "--rate"),
    (("--rate", "10,10"), "--rate"),
    (("--api", "grpc"), "--api"),
    (("--api", "predict", "--version", "1"), "--version"),
    (("--texts", "/no/such/file"), "--texts"),
    (("--token", "two words"), "--token"),
    (("--png", "/no/such/folder/x.png"), "--png"),
    (("--pid", "4194999"), "--pid"),
]


@pytest.mark.parametrize(
    ("flags", "field"), REFUSED, ids=lambda each: " ".join(each) if isinstance(each, tuple) else each
)
def test_a_bad_flag_is_refused_before_anything_is_sent(flags: tuple[str, ...], field: str, tmp_path: Path) -> None:
    # Port 1: were anything sent, the status would be 4.
    ran = fleetctl(tmp_path, "http://127.0.0.1:1", "--model", "m", *flags)
    assert ran.status == 1
    assert f"field {field}" in ran.err
    assert len(ran.err.splitlines()) == 1


@pytest.mark.parametrize(
    "address", ["ftp://x", "127.0.0.1:8090", "http://x:99999", "http://x?y=1", "unix:", "http://["]
)
def test_an_address_is_one_of_three_forms(address: str, tmp_path: Path) -> None:
    ran = fleetctl(tmp_path, address, "--model", "m")
    assert (ran.status, ran.out) == (1, "")
    assert "field URL" in ran.err


def test_a_token_goes_with_every_request_and_a_refusal_of_it_is_one(tmp_path: Path) -> None:
    seen: set[str | None] = set()

    async def answer(request: web.Request) -> web.Response:
        seen.add(request.headers.get("Authorization"))
        status = 200 if request.headers.get("Authorization") == "Bearer right" else 401
        return web.json_response({"error": "who are you"}, status=status)

    async def main() -> tuple[Ran, Ran, Ran]:
        shell = Shell("http://127.0.0.1:1", tmp_path)
        async with serving(answer) as port:
            asked = ("load", f"http://127.0.0.1:{port}/behind/a/proxy", "--model", "m", "--clients", "1", *QUICK)
            return (
                await shell(*asked, "--token", "right"),
                await shell(*asked, "--token-file", "-", stdin="right\n"),
                await shell(*asked),
            )

    right, piped, wrong = asyncio.run(main())
    assert (right.status, piped.status, wrong.status) == (0, 0, 3)
    assert seen == {"Bearer right", None}
    assert "401: who are you" in wrong.err


def test_over_tls_only_to_a_server_that_is_who_it_says(tmp_path: Path) -> None:
    async def well(_: web.Request) -> web.Response:
        return web.json_response({})

    async def main() -> tuple[Ran, Ran]:
        file, context = certificate(tmp_path)
        async with serving(well, tls=context) as port:
            asked = ("load", f"https://127.0.0.1:{port}", "--model", "m", "--clients", "2", *QUICK, "--json")
            trusting = Shell("http://127.0.0.1:1", tmp_path, SSL_CERT_FILE=str(file))
            return await trusting(*asked), await Shell("http://127.0.0.1:1", tmp_path)(*asked)

    known, stranger = asyncio.run(main())
    assert known.status == 0, known
    assert known.json["steps"][0]["answered"] > 0
    assert stranger.status == 4
    assert "certificate verify failed" in stranger.err


def test_without_matplotlib_a_picture_is_refused_by_the_name_of_the_extra(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    ran = fleetctl(tmp_path, "http://127.0.0.1:1", "--model", "m", "--png", str(tmp_path / "x.png"))
    assert ran.status == 1
    assert "tideline[load]" in ran.err


def test_the_command_line_starts_without_what_draws() -> None:
    async def main() -> tuple[int | None, bytes]:
        code = "import sys, cloud_core.ctl.cli; sys.exit('matplotlib' in sys.modules)"
        child = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stderr=asyncio.subprocess.PIPE)
        _, said = await child.communicate()
        return child.returncode, said

    assert asyncio.run(main()) == (0, b"")


@pytest.mark.parametrize("rates", [(), (20.0, 40.0, 80.0)])
def test_what_was_found_before_a_server_went_away_is_kept(rates: tuple[float, ...]) -> None:
    asked = 0

    async def well(_: web.Request) -> web.Response:
        return web.json_response({})

    async def ask() -> None:
        nonlocal asked
        asked += 1
        if asked == 3:
            raise Transient("it is gone", why=Unavailable.UNREACHABLE)

    async def main() -> Found:
        wish = Wish(clients=(1, 2, 4), rates=rates, held=True)
        async with serving(well) as port:
            with steps(as_json=True) as progress:
                return await measure(plan(port), wish, Cpu(None), progress, ask)

    found = asyncio.run(main())
    assert (len(found.steps), found.stopped) == (2, "it is gone")
    assert (found.knee is None) == bool(rates)
    assert found.held is not None
    assert found.held.why is (HeldWhy.ALL_HELD if rates else HeldWhy.NONE_HELD)


def test_what_is_shown_says_why() -> None:
    from rich.console import Console

    rows = (
        Step(clients=1, seconds=1.0, asked=3, answered=0, refused=2, errors={"timeout": 1}),
        Step(
            clients=2,
            rate=5.0,
            seconds=1.0,
            asked=5,
            answered=5,
            inside=4,
            mean_ms=1,
            p50_ms=9.0,
            p95_ms=50,
            p99_ms=500,
        ),
    )

    def told(**more: object) -> str:
        console = Console(width=200)
        with console.capture() as captured:
            console.print(shown.as_table(Found(steps=rows, **more), bound_ms=100.0, cpu_of="machine"))  # type: ignore[arg-type]
        return captured.get()

    text = told(knee=Knee(clients=None, throughput=0.0, why=KneeWhy.NOTHING), stopped="only 3 could connect")
    for word in (
        "WITHIN 100 MS",
        "0.0 %",
        "80.0 %",
        "1 x timeout",
        "9.00 ms",
        "50.0 ms",
        "500 ms",
        "nothing was answered",
    ):
        assert word in text, text
    assert "it ended early: only 3 could connect" in text
    assert "no knee up to 2 clients" in told(knee=Knee(clients=2, throughput=5.0, why=KneeWhy.LADDER_ENDS))
    assert "no rate tried holds" in told(held=Held(rate=None, missed=5.0, why=HeldWhy.NONE_HELD))
    assert "5.0 requests/s; 6.0 did not" in told(held=Held(rate=5.0, missed=6.0, why=HeldWhy.NEXT_MISSED))
