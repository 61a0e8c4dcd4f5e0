"""What a request may ask of a text generator: how long, how it is drawn, and where it stops. Wrong values are refused by name.

| parameter | allowed | unless given |
|---|---|---|
| `max_tokens` | 1 up to what the context has room for, at most 1000000 | 64, or what the context has room for |
| `temperature` | 0 to 2; 0 takes the likeliest token | 0 |
| `top_p` | over 0, up to 1 | 1 |
| `seed` | a whole number of 64 bits: the same seed, the same text | another one every time |
| `stop` | 1 to 4 texts of 1 to 128 characters; never part of the answer | none |
| `truncate` | true cuts an over-long prompt from the left | false: it is refused |
"""

from collections.abc import Mapping
from typing import TypeGuard

import msgspec

from shared.protocol.errors import Refused, shortened

DEFAULT_MAX_TOKENS = 64
"""OpenAI's 16 for completions would cut most sentences; its unlimited chats would let one caller hold a device."""
MOST_TOKENS = 1_000_000
"""So that what is estimated before a model was asked stays sane."""
MAX_TEMPERATURE = 2.0
MAX_STOPS = 4
MAX_STOP = 128
"""Code points of a stop text: as many may have to be held back while a text streams."""
_SEEDS = 2**63


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """Checked parameters; `max_tokens` and `seed` are None where the request leaves them open."""

    max_tokens: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()


def asked_of(parameters: Mapping[str, object]) -> Asked:
    """The parameters of a request; those of other names are not ours to judge.

    Raises:
        Refused: a wrong value; names `parameters.<name>` and what is allowed.

    """
    return Asked(
        max_tokens=_whole(parameters, "max_tokens", least=1, most=MOST_TOKENS, allowed=f"1 to {MOST_TOKENS}"),
        temperature=_number(parameters, "temperature", 0.0, allowed=f"0 to {MAX_TEMPERATURE:g}"),
        top_p=_number(parameters, "top_p", 1.0, allowed="over 0, up to 1"),
        seed=_whole(parameters, "seed", least=-_SEEDS, most=_SEEDS - 1, allowed="a whole number of 64 bits"),
        stop=_stop(parameters.get("stop")),
    )


def wanted_tokens(parameters: Mapping[str, object]) -> int:
    """How many tokens a request may take to write, for estimates before anything was checked; never an error."""
    value = parameters.get("max_tokens")
    return value if _is_whole(value) and 0 < value <= MOST_TOKENS else DEFAULT_MAX_TOKENS


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _whole(parameters: Mapping[str, object], name: str, *, least: int, most: int, allowed: str) -> int | None:
    value = parameters.get(name)
    if value is None:
        return None
    if not _is_whole(value) or not least <= value <= most:
        raise _wrong(name, value, allowed)
    return value


def _number(parameters: Mapping[str, object], name: str, default: float, *, allowed: str) -> float:
    value = parameters.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong(name, value, allowed)
    # Not-a-number fails both comparisons, as it should.
    fits = 0.0 <= value <= MAX_TEMPERATURE if name == "temperature" else 0.0 < value <= 1.0
    if not fits:
        raise _wrong(name, value, allowed)
    return float(value)


def _stop(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    texts = [value] if isinstance(value, str) else value
    allowed = f"1 to {MAX_STOPS} texts of 1 to {MAX_STOP} characters"
    if not isinstance(texts, list | tuple) or not 0 < len(texts) <= MAX_STOPS:
        raise _wrong("stop", value, allowed)
    found = [text for text in texts if isinstance(text, str) and 0 < len(text) <= MAX_STOP]
    if len(found) != len(texts):
        raise _wrong("stop", value, allowed)
    return tuple(found)


def _wrong(name: str, value: object, allowed: str) -> Refused:
    return Refused("unsupported value", field=f"parameters.{name}", value=shortened(value), allowed=allowed)
