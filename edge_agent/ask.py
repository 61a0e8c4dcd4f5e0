"""What the command line asks a running agent over HTTP, or the state folder of one that does not run."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import msgspec

from edge_agent.config import Settings
from edge_agent.status import announced, at_rest
from shared.protocol.errors import Overloaded, Refusal, Refused, TidelineError, Transient, Unavailable
from shared.protocol.topics import Header

TIMEOUT_S = 60.0
STATUS_S = 5.0
MAX_ANSWER = 64 * 1024 * 1024


def address(settings: Settings) -> str:
    """Where the agent of this state folder listens, as it said itself, or else as the settings say."""
    told = announced(settings.state)
    return told.url if told is not None else f"http://{settings.host}:{settings.port}"


async def status(folder: Path, url: str | None) -> dict[str, object]:
    """How the agent stands; what its folder tells where it does not run.

    Raises:
        Transient: it runs, or is said to, and does not answer.
        Refused: there is no agent here.

    """
    told = announced(folder)
    at = url or (told.url if told is not None else None)
    if at is not None:
        try:
            return {"running": True, "url": at, **await _get(f"{at}/health")}
        except Transient:
            if url is not None:
                raise
    try:
        return await asyncio.to_thread(at_rest, folder)
    except Refused as error:
        if error.kind is not Refusal.CONFLICT:
            raise
        raise Transient(f"the agent runs and does not answer at {at}", why=Unavailable.UNREACHABLE) from error


async def infer(url: str, model: str, text: str, *, deadline_ms: float | None, private: bool) -> dict[str, object]:
    """The agent's answer to one text, as `/predict` gives it.

    Raises:
        Refused, Overloaded, Transient: as the agent said.

    """
    headers = {"Content-Type": "application/json"}
    if deadline_ms is not None:
        headers[Header.DEADLINE_MS] = f"{deadline_ms:g}"
    if private:
        headers[Header.PRIVACY] = "local-only"
    body = msgspec.json.encode({"model": model, "input_text": text})
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S, sock_connect=STATUS_S)
    return await _exchange("POST", f"{url}/predict", headers=headers, body=body, limits=timeout)


async def _get(url: str) -> dict[str, object]:
    return await _exchange("GET", url, headers={}, body=None, limits=aiohttp.ClientTimeout(total=STATUS_S))


async def _exchange(
    method: str, url: str, *, headers: Mapping[str, str], body: bytes | None, limits: aiohttp.ClientTimeout
) -> dict[str, object]:
    try:
        async with (
            aiohttp.ClientSession(timeout=limits) as http,
            http.request(method, url, headers=headers, data=body) as answer,
        ):
            data, code = await answer.read(), answer.status
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        text = f"no agent answers at {url}: {error or type(error).__name__}"
        raise Transient(text, why=Unavailable.UNREACHABLE) from error
    try:
        document = msgspec.json.decode(data, type=dict[str, object])
    except msgspec.DecodeError as error:
        raise Transient(f"{url} is no agent", why=Unavailable.UNREACHABLE) from error
    if code >= 300:
        raise _error(code, document)
    return document


def _error(code: int, document: Mapping[str, object]) -> TidelineError:
    said = str(document.get("detail", document.get("error", f"status {code}")))
    if code == 429:
        return Overloaded(said, retry_after=1.0)
    if code in (401, 403):
        return Refused(said, kind=Refusal.FORBIDDEN)
    if code >= 500:
        return Transient(said, why=Unavailable.NOT_READY)
    return Refused(said)


def lines_of(told: Mapping[str, object]) -> Sequence[str]:
    """The status for people."""
    lines = [f"agent      {'running at ' + str(told.get('url')) if told.get('running') else 'not running'}"]
    lines.append(f"device     {told.get('tenant') or '-'}/{told.get('device') or '-'}")
    link = _map(told.get("link"))
    state = "not enrolled" if not link.get("enrolled") else "connected" if link.get("connected") else "not connected"
    lines.append(f"link       {state}" + (", control plane online" if link.get("control_plane_online") else ""))
    lines += _trust(_map(told.get("trust")))
    if told.get("isolation"):
        lines.append(f"isolation  {told.get('isolation')} while models are tried")
    for slot in ("accepted", "applied", "previous"):
        found = _map(told.get(slot))
        if found:
            lines.append(f"{slot:<10} generation {found.get('epoch')}.{found.get('number')}")
            lines += [
                f"  {model.get('name')} {model.get('version')}" for model in map(_map, _list(found.get("models")))
            ]
    report = _map(told.get("reported"))
    if report:
        order = ".".join(str(part) for part in _list(report.get("applied"))) or "none"
        target = ".".join(str(part) for part in _list(report.get("target"))) or "none"
        outcome = f", {report.get('outcome')}" if report.get("outcome") else ""
        lines.append(f"generation {order}, newest {target}: {report.get('convergence')}{outcome}")
        if report.get("step"):
            lines.append(f"step       {report.get('step')}")
        for model in map(_map, _list(report.get("models"))):
            share = _share(model)
            mark = " (active)" if model.get("active") else ""
            name = f"{model.get('name')} {model.get('version')} {model.get('variant') or '-'}"
            lines.append(f"  {name}: {model.get('state')}{share}{mark}")
        if report.get("error"):
            lines.append(f"last error {report.get('error')}")
    lines += _tuning(_map(told.get("tuning")))
    reasons = _list(told.get("reasons"))
    if told.get("running"):
        lines.append("ready      " + ("yes" if told.get("ready") else "no: " + "; ".join(map(str, reasons))))
    return lines


def _trust(told: Mapping[str, object]) -> Sequence[str]:
    """How the device stands with what it may install."""
    if not told:
        return ()
    versions = ", ".join(f"{role} {version}" for role, version in _map(told.get("versions")).items())
    until = told.get("expires_at")
    end = f", until {datetime.fromtimestamp(until, UTC):%Y-%m-%d %H:%M} UTC" if isinstance(until, int | float) else ""
    pinned, later = (
        str(told.get("pinned_root") or "none")[:16],
        " after its enrolment" if told.get("pinned_later") else "",
    )
    lines = [f"trust      {told.get('state')}: {versions or 'no metadata yet'}{end}; root {pinned} pinned{later}"]
    if told.get("error"):
        lines.append(f"  {told.get('error')}")
    return lines


def _share(model: Mapping[str, object]) -> str:
    """Such as ` 40%, 1.2 MB/s, 30 s left`."""
    progress, rate, left = (model.get(name) for name in ("progress", "bytes_per_s", "seconds_left"))
    if not isinstance(progress, int | float):
        return ""
    share = f" {progress:.0%}"
    if isinstance(rate, int | float) and isinstance(left, int | float) and progress < 1:
        share += f", {rate / 1e6:.2f} MB/s, {left:.0f} s left"
    return share


def _tuning(told: Mapping[str, object]) -> Sequence[str]:
    """How models run here, and what was measured for it."""
    lines: list[str] = []
    for model in map(_map, _list(told.get("models"))):
        why = f"; {model.get('ignored')}" if model.get("ignored") else ""
        how = _how(_map(model.get("arrangement")))
        lines.append(f"  {model.get('name')} {model.get('version')}: {how} ({model.get('source')}{why})")
    if lines:
        lines.insert(0, "running")
    found = [_map(each) for each in _list(told.get("found"))]
    if found:
        lines.append("measured")
    for each in found:
        best = (
            f"{each.get('variant')}, {_how(_map(each.get('arrangement')))}"
            if each.get("variant")
            else each.get("reason")
        )
        lines.append(f"  {each.get('name')} {each.get('version')}: {best}")
    doing = _map(told.get("doing"))
    if doing.get("model"):
        because = f" ({doing.get('because')})" if doing.get("because") else ""
        lines.append(f"tuning     {doing.get('state')}: {doing.get('model')}{because}")
    return lines


def _how(arrangement: Mapping[str, object]) -> str:
    """Such as `onnxruntime, 2 x 1 threads`."""
    precision = f" {arrangement.get('precision')}" if arrangement.get("precision") else ""
    bounds = f", {arrangement.get('rows')} rows" if arrangement.get("rows") else ""
    spinning = ", spinning" if arrangement.get("spinning") else ""
    share = f"{arrangement.get('lanes')} x {arrangement.get('threads')} threads"
    return f"{arrangement.get('runtime')}{precision}, {share}{spinning}{bounds}"


def _map(value: object) -> Mapping[str, object]:
    if isinstance(value, msgspec.Struct):
        return msgspec.structs.asdict(value)
    return value if isinstance(value, Mapping) else {}


def _list(value: object) -> Sequence[object]:
    return value if isinstance(value, list | tuple) else ()
