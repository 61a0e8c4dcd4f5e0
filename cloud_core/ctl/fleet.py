"""Devices as fleetctl shows them: what the API answers, and a table of it."""

from collections.abc import Sequence

import msgspec
from rich.table import Table
from rich.text import Text

from cloud_core.ctl.client import Client, path
from cloud_core.ctl.output import ago, state, table
from cloud_core.decide.summary import Summary
from shared.protocol.desired import Order
from shared.protocol.reported import Hardware, Reported


class Presence(msgspec.Struct, frozen=True):
    """Is it there, and what that follows from."""

    state: str
    why: str


class Desired(msgspec.Struct, frozen=True):
    """The newest generation made for it."""

    epoch: int
    number: int
    why: str


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """One device of the list."""

    device: str
    description: str
    presence: Presence
    groups: tuple[str, ...]
    enrolled_at: float | None
    last_seen: float | None
    agent_version: str | None
    hardware: Hardware | None
    desired: Desired | None
    reported: Reported | None
    telemetry: Summary | None


async def fleet(client: Client, group: str | None = None) -> tuple[list[Device], list[msgspec.Raw]]:
    """All devices, of one group where it is given; and the same as the API said them."""
    query = {} if group is None else {"group": group}
    raw = [item async for item in client.pages(path("devices"), msgspec.Raw, **query)]
    return [msgspec.json.decode(item, type=Device) for item in raw], raw


def fleet_table(devices: Sequence[Device], now: float) -> Table:
    """What an operator wants to know of each device."""
    rows = [
        (
            device.device,
            state(device.presence.state),
            generation(device),
            models(device),
            requests(device.telemetry),
            milliseconds(device.telemetry.p99 if device.telemetry else None),
            ago(device.last_seen, now),
        )
        for device in devices
    ]
    return table("DEVICE", "PRESENCE", "GENERATION", "MODELS", "REQUESTS", "P99", "LAST SEEN", rows=rows)


def generation(device: Device) -> Text:
    """Applied/desired, and how far it is where they differ."""
    reported = device.reported
    applied = _order(reported.applied if reported else None)
    desired = _order(Order(device.desired.epoch, device.desired.number) if device.desired else None)
    shown = Text(f"{applied}/{desired}")
    if reported is not None and applied != desired:
        shown.append(" ").append_text(state(reported.convergence))
    return shown


def models(device: Device) -> Text:
    """Each model version and its state."""
    if device.reported is None or not device.reported.models:
        return Text("-")
    return Text("\n").join(
        Text(f"{model.name}@{model.version} ").append_text(state(model.state)) for model in device.reported.models
    )


def requests(summary: Summary | None) -> str:
    """How many, and where they were answered."""
    if summary is None:
        return "-"
    words = {"none": "refused"}
    where = ", ".join(f"{count} {words.get(place, place)}" for place, count in sorted(summary.where.items()))
    return f"{summary.requests} ({where})" if where else str(summary.requests)


def milliseconds(seconds: float | None) -> str:
    """A latency."""
    return "-" if seconds is None else f"{seconds * 1000:.1f} ms"


def _order(order: Order | None) -> str:
    if order is None:
        return "-"
    return str(order.number) if order.epoch == 1 else f"{order.epoch}.{order.number}"
