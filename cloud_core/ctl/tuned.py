"""What devices found out about how models run best on them: shown, and told to the others of their kind."""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from cloud_core.ctl.client import Client, path
from cloud_core.ctl.fleet import Device, fleet
from shared.protocol.reported import Tuned
from shared.serving.decide.ways import Way


class _Version(msgspec.Struct, frozen=True):
    digest: str


def words_of(tuned: Tuned) -> str:
    """Such as `cpu-int8, onnxruntime, 2 x 1 threads: 3.1 ms alone`."""
    how = tuned.arrangement
    runtime = f"{how.runtime} {how.precision}".strip()
    spinning, rows = ", spinning" if how.spinning else "", f", {how.rows} rows" if how.rows is not None else ""
    alone = tuned.seconds.get("1")
    time = f": {alone * 1000:.1f} ms alone" if alone is not None else ""
    return f"{tuned.variant}, {runtime}, {how.lanes} x {how.threads} threads{spinning}{rows}{time}"


def lines_of(device: Device) -> Sequence[str]:
    """A line for each version that was measured on a device."""
    if device.reported is None:
        return ()
    names = {model.digest: f"{model.name}@{model.version}" for model in device.reported.models}
    return [f"{names.get(each.digest, each.digest[:12])} {words_of(each)}" for each in device.reported.tuned]


def newest_ways(devices: Iterable[Device], digest: str, variant: str | None) -> dict[str, Way]:
    """By hardware class, the newest finding about a version any device reports; of `variant` only, where one is named."""
    found: dict[str, Tuned] = {}
    for device in devices:
        if device.hardware is None or device.reported is None:
            continue
        for tuned in device.reported.tuned:
            if tuned.digest != digest or variant not in (None, tuned.variant):
                continue
            before = found.get(device.hardware.hardware_class)
            if before is None or before.at < tuned.at:
                found[device.hardware.hardware_class] = tuned
    return {
        hardware: Way(variant=each.variant, arrangement=each.arrangement) for hardware, each in sorted(found.items())
    }


async def with_tuned(client: Client, models: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """`models` of an assignment, each with what the fleet has found out about it."""
    devices, _ = await fleet(client)
    told = []
    for model in models:
        version = await client.get(path("models", model["name"], "versions", model["version"]), _Version)
        ways = newest_ways(devices, version.digest, model.get("variant"))
        told.append({**model, "tuned": msgspec.to_builtins(ways)})
    return told
