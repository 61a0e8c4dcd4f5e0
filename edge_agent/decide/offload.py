"""What the gateway's announced pressure means for one request.  Pure."""

import msgspec

from shared.protocol.pressure import Pressure


class Offload(msgspec.Struct, frozen=True):
    """Seconds a request would wait in the cloud, and whether this one is in the share of overflow the cloud wants."""

    wait: float = 0.0
    admitted: bool = True


def offload(pressure: Pressure | None, model: str, *, wall: float, u: float) -> Offload:
    """The announcement applied to `model`; `u` in [0, 1) is this request's draw.

    An announcement that is missing or old says nothing, and so does one that lacks the model: a gateway that is only
    starting must not bar its fleet, and one that cannot serve the model refuses it itself.
    """
    if pressure is None or wall >= pressure.valid_until:
        return Offload()
    told = pressure.models.get(model)
    if told is None:
        return Offload()
    return Offload(wait=max(0.0, told.expected_wait_s), admitted=u < told.admit_fraction)
