"""The newest few thousand stories of requests, by id: what `GET /v1/why/{request_id}` is answered from, on every process."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

from shared.protocol.errors import Refusal, Refused

K = TypeVar("K", bound=Hashable)
S = TypeVar("S")


class Stories(Generic[K, S]):
    """A bounded ring; one id that comes again replaces its older story."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._kept: OrderedDict[K, S] = OrderedDict()

    def remember(self, key: K, story: S) -> None:
        """Keep this one; the oldest is forgotten."""
        self._kept.pop(key, None)
        self._kept[key] = story
        if len(self._kept) > self._capacity:
            self._kept.popitem(last=False)

    def get(self, key: K) -> S | None:
        """The story, while it is kept."""
        return self._kept.get(key)

    def find(self, key: K, request_id: str) -> S:
        """The story of `request_id`.

        Raises:
            Refused: not known, or not any more.

        """
        found = self._kept.get(key)
        if found is None:
            raise Refused(
                "no such request, or it was too long ago",
                kind=Refusal.NOT_FOUND,
                field="request_id",
                value=request_id,
                allowed=f"one of the newest {self._capacity}",
            )
        return found
