"""`fleetctl load`: how much an inference address carries, as a table, JSON and a picture."""

import asyncio
import itertools
import math
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
import uvloop

from cloud_core.ctl.load import png, shown
from cloud_core.ctl.load.cpu import Cpu
from cloud_core.ctl.load.plan import Plan
from cloud_core.ctl.load.run import CONNECTIONS, Wish, allow_files, measure
from cloud_core.ctl.load.target import ask_once, infer_bodies, infer_path, place_of, predict_bodies, requests_of
from cloud_core.ctl.output import AsJson, say
from cloud_core.ctl.progress import steps
from shared.protocol.errors import Refused

TEXT = "这家店的牛肉面汤头很鲜，分量也足，下次还会再来。"
LADDER = "1,2,4,8,16,32,64,128,256,512,1000"
MOST_CLIENTS, MOST_RATE = 10_000, 1e6
MOST_TEXT_BYTES = 64 * 1024 * 1024


def load(
    *,
    url: Annotated[str, typer.Argument(help="An edge, a gateway or a replica; unix:/path for a socket.")] = (
        "http://127.0.0.1:8090"
    ),
    model: Annotated[str, typer.Option(help="Which model.")],
    version: Annotated[str | None, typer.Option(help="Which version; the active one where absent.")] = None,
    api: Annotated[str, typer.Option(help="infer (Open Inference Protocol) or predict.")] = "infer",
    texts: Annotated[Path | None, typer.Option(help="A file of texts, one a line, sent in turn.")] = None,
    body: Annotated[Path | None, typer.Option(help="A whole body of an infer request, in place of texts.")] = None,
    clients: Annotated[str, typer.Option(help="The ladder of a closed loop.")] = LADDER,
    rate: Annotated[
        str | None, typer.Option(help="Requests per second, or a list: an open loop in the ladder's place.")
    ] = None,
    poisson: Annotated[bool, typer.Option("--poisson", help="Random arrivals, at the same rate on average.")] = False,
    seconds: Annotated[float, typer.Option(min=0.1, max=3600, help="How long each step counts.")] = 5.0,
    warm_up_s: Annotated[float, typer.Option(min=0, max=600, help="How long each step runs before that.")] = 1.0,
    p99_ms: Annotated[float | None, typer.Option(min=0.001, help="Name the largest rate that holds this P99.")] = None,
    deadline_ms: Annotated[float | None, typer.Option(min=1, help="Deadline that goes with each request.")] = None,
    timeout_s: Annotated[float, typer.Option(min=0.1, max=3600, help="How long an answer is waited for.")] = 30.0,
    token: Annotated[str | None, typer.Option(help="Bearer token; others on this machine may see it.")] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="A file with the bearer token; - reads standard input.")
    ] = None,
    pid: Annotated[
        int | None, typer.Option(help="Show the CPU of this process and its children, not of this machine.")
    ] = None,
    picture: Annotated[Path | None, typer.Option("--png", help="Draw it here; needs the extra `load`.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure what an inference address carries: throughput, latencies and CPU by clients, the knee, the rate that holds a P99."""
    place = place_of(url)
    wish = Wish(
        clients=tuple(int(each) for each in _numbers("--clients", clients, 1, MOST_CLIENTS, whole=True)),
        rates=tuple(_numbers("--rate", rate, 0.01, MOST_RATE)) if rate is not None else (),
        is_poisson=poisson,
        held=p99_ms is not None,
    )
    bound_ms = p99_ms if p99_ms is not None else deadline_ms
    path, bodies = _asked(api, model, version, texts, body)
    plan = Plan(
        place.address,
        requests_of(place, path, bodies, token=_token(token, token_file), deadline_s=_in_seconds(deadline_ms)),
        seconds=seconds,
        warm_up_s=warm_up_s,
        patience_s=timeout_s,
        bound_s=_in_seconds(bound_ms),
        send_within_s=math.inf if deadline_ms is None else deadline_ms / 1000,
    )
    if picture is not None:
        png.check(picture)
    allow_files(max((CONNECTIONS, *wish.clients)))
    cpu = Cpu(pid)

    async def ask() -> None:
        await ask_once(place, plan.requests, patience_s=timeout_s)

    with steps(as_json=as_json) as progress, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(measure(plan, wish, cpu, progress, ask))
    about: dict[str, Any] = {
        "url": url, "api": api, "model": model, "version": version, "texts": len(bodies), "seconds": seconds,
        "warm_up_s": warm_up_s, "arrivals": "poisson" if poisson else "even", "deadline_ms": deadline_ms, "p99_ms": p99_ms,
        "pid": pid, "cores": os.cpu_count(),
    }  # fmt: skip
    cpu_of = "machine" if pid is None else f"process {pid}"
    if picture is not None:
        png.write(picture, found, title=f"{model} at {url}", bound_ms=bound_ms, cpu_of=cpu_of)
    say(shown.as_json(found, about), shown.as_table(found, bound_ms=bound_ms, cpu_of=cpu_of), as_json=as_json)


def _asked(api: str, model: str, version: str | None, texts: Path | None, body: Path | None) -> tuple[str, list[bytes]]:
    """The path and the bodies."""
    match api:
        case "infer":
            path = infer_path(model, version)
            return path, [_read("--body", body)] if body is not None else infer_bodies(_texts(texts))
        case "predict":
            if version is not None or body is not None:
                field = "--version" if version is not None else "--body"
                raise Refused("only infer takes it", field=field, value=version or str(body), allowed="--api infer")
            return "/predict", predict_bodies(model, _texts(texts))
        case _:
            raise Refused("unknown API", field="--api", value=api, allowed="infer or predict")


def _texts(file: Path | None) -> list[str]:
    if file is None:
        return [TEXT]
    try:
        lines = _read("--texts", file).decode().splitlines()
    except UnicodeDecodeError as error:
        raise Refused("not UTF-8", field="--texts", value=str(file)) from error
    found = [line for line in lines if line.strip()]
    if not found:
        raise Refused("no text in it", field="--texts", value=str(file), allowed="one text a line")
    return found


def _read(field: str, file: Path) -> bytes:
    try:
        if file.stat().st_size > MOST_TEXT_BYTES:
            raise Refused("too large", field=field, value=str(file), allowed=f"at most {MOST_TEXT_BYTES} bytes")
        return file.read_bytes()
    except OSError as error:
        raise Refused(f"cannot be read: {error.strerror}", field=field, value=str(file)) from error


def _token(token: str | None, file: Path | None) -> str | None:
    if file is None:
        return token
    return (
        sys.stdin.readline().strip()
        if str(file) == "-"
        else _read("--token-file", file).decode(errors="replace").strip()
    )


def _numbers(field: str, text: str, least: float, most: float, *, whole: bool = False) -> list[float]:
    """Rising numbers of a list.

    Raises:
        Refused: it is none.

    """
    allowed = f"rising {'whole ' if whole else ''}numbers from {least:g} to {most:g}, with commas between them"
    try:
        found = [float(int(each)) if whole else float(each) for each in text.split(",")]
    except ValueError as error:
        raise Refused("not a list of numbers", field=field, value=text, allowed=allowed) from error
    if not all(least <= each <= most for each in found) or any(a >= b for a, b in itertools.pairwise(found)):
        raise Refused("not such a list", field=field, value=text, allowed=allowed)
    return found


def _in_seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000
