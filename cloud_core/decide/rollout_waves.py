"""Which devices come when: waves of a rollout, an order that spreads over sites, and how many may come in a minute. Pure."""

import hashlib
import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from shared.protocol.errors import Refusal, Refused

CANARY = ("1", "5%", "25%", "100%")
ALL_AT_ONCE = ("100%",)
ALLOWED = "devices (`1`) or shares (`5%`), each more than the one before, the last one 100%"
MOST_WAVES = 100
MINUTE_S = 60.0
_WAVE = re.compile(r"([1-9]\d{0,6})|(\d{1,3}(?:\.\d{1,2})?)%")


class Rate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Devices per minute: `base_per_minute`, times `factor` for each `every` devices that succeeded, `most_per_minute` at most."""

    base_per_minute: float
    factor: float = 1.0
    every: int = 10
    most_per_minute: float = 1000.0


def check_waves(waves: Sequence[str], *, field: str) -> None:
    """Refuse waves that do not lead to the whole fleet; names `field`.

    Raises:
        Refused: not waves.

    """
    found = [_WAVE.fullmatch(wave) for wave in waves]
    counts = [int(one[1]) for one in found if one is not None and one[1] is not None]
    shares = [float(one[2]) for one in found if one is not None and one[2] is not None]
    # Numbers of devices come before shares: which is larger depends on a fleet that changes.
    ordered = [one is not None and one[2] is not None for one in found]
    rising = all(a < b for each in (counts, shares) for a, b in itertools.pairwise(each))
    whole = bool(waves) and waves[-1] == "100%" and all(0 < share <= 100 for share in shares)
    if None in found or not rising or not whole or ordered != sorted(ordered) or len(waves) > MOST_WAVES:
        raise Refused("not waves", kind=Refusal.UNPROCESSABLE, field=field, value=list(waves), allowed=ALLOWED)


def quota(waves: Sequence[str], wave: int, fleet: int) -> int:
    """How many of `fleet` devices have come when wave number `wave` is complete; the whole fleet beyond the last."""
    if wave >= len(waves):
        return fleet
    text = waves[wave]
    count = math.ceil(float(text[:-1]) / 100.0 * fleet) if text.endswith("%") else int(text)
    return min(fleet, max(1, count))


def spread(devices: Mapping[str, str], *, seed: str) -> list[str]:
    """Devices in an order of which every beginning has its share of every site. `devices`: site by device.

    Within a site the order is by a hash of `seed` and the name, so it is stable, and another rollout begins elsewhere.
    """
    sites: dict[str, list[str]] = {}
    for device, site in devices.items():
        sites.setdefault(site, []).append(device)
    placed: list[tuple[float, str, str]] = []
    for site, names in sites.items():
        names.sort(key=lambda name: _hashed(seed, name))
        placed += [((i + 0.5) / len(names), _hashed(seed, site), name) for i, name in enumerate(names)]
    return [name for _, _, name in sorted(placed)]


def room(rate: Rate | None, *, came: Iterable[float], succeeded: int, now: float) -> int | None:
    """How many more devices may come now, given when others `came`; None for any number."""
    if rate is None:
        return None
    steps = min(succeeded // max(1, rate.every), 200)
    per_minute = min(rate.most_per_minute, rate.base_per_minute * rate.factor**steps)
    # A rate below one a minute is one in a longer time.
    window = MINUTE_S if per_minute >= 1.0 else MINUTE_S / per_minute
    allowed = max(1, int(per_minute))
    return max(0, allowed - sum(1 for at in came if at > now - window))


def _hashed(seed: str, name: str) -> str:
    return hashlib.sha256(f"{seed}\0{name}".encode()).hexdigest()
