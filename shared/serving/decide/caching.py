"""Which answers may be kept and given again for the same input.  Pure."""

from collections.abc import Mapping
from enum import StrEnum

MOST_INPUT = 1 << 20
"""Bytes of input that are worth recognizing: hashing more would hold the event loop for milliseconds."""


class Bypass(StrEnum):
    """Why a request is neither looked up nor its answer kept."""

    CHANCE = "chance"
    LARGE = "large"


def bypass(parameters: Mapping[str, object], *, size: int) -> Bypass | None:
    """Why a request with `parameters` and `size` bytes of input passes the cache by; None where it does not."""
    if is_drawn(parameters):
        return Bypass.CHANCE
    if size > MOST_INPUT:
        return Bypass.LARGE
    return None


def is_drawn(parameters: Mapping[str, object]) -> bool:
    """Whether the answer may be drawn by chance, even with a seed: a temperature that is anything but absent or 0.

    What is no number is the task's to refuse; until then nobody says that it is 0.
    """
    temperature = parameters.get("temperature")
    if temperature is None:
        return False
    return isinstance(temperature, bool) or not isinstance(temperature, int | float) or temperature != 0
