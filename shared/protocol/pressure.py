"""How much the cloud can take right now, told to a tenant's whole fleet: retained, QoS 0, and worthless once it is old."""

import msgspec

KIND = "pressure"


class ModelPressure(msgspec.Struct, frozen=True, kw_only=True):
    """Headroom of one model: seconds a request would wait before compute, and the share (0 to 1) of overflow to send."""

    expected_wait_s: float
    admit_fraction: float


class Pressure(msgspec.Struct, frozen=True, kw_only=True):
    """Headroom by model name. After `valid_until` (Unix seconds) it says nothing; a model that is absent is not served."""

    models: dict[str, ModelPressure]
    valid_until: float
