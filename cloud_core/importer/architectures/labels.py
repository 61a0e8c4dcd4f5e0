"""Labels in the order of a model's outputs."""

from collections.abc import Mapping
from typing import Any

from shared.protocol.errors import Refusal, Refused


def in_order(id2label: Mapping[Any, Any] | None, count: int) -> tuple[str, ...]:
    """The labels of outputs 0 to `count` - 1; their numbers where the model has no names for them.

    Raises:
        Refused: not one name for every output.

    """
    if not id2label:
        return tuple(str(i) for i in range(count))
    try:
        known = {int(place): str(label) for place, label in id2label.items()}
    except (TypeError, ValueError) as error:
        raise _wrong(id2label, count) from error
    if sorted(known) != list(range(count)) or len(set(known.values())) != count:
        raise _wrong(id2label, count)
    return tuple(known[i] for i in range(count))


def _wrong(id2label: Mapping[Any, Any], count: int) -> Refused:
    return Refused(
        "labels that do not fit the model",
        kind=Refusal.UNPROCESSABLE,
        field="labels",
        value=dict(id2label),
        allowed=f"{count} names, for 0 to {count - 1}",
    )
