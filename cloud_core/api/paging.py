"""Lists in pages: `?limit=` and an opaque `?cursor=` that names the last item of the page before."""

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import TypeVar

from cloud_core.api.routes import MAX_PAGE, Call, Page
from shared.protocol.errors import Refused

T = TypeVar("T")
V = TypeVar("V")
QUERY = ("limit", "cursor")
DEFAULT = 100


def limit_of(call: Call) -> int:
    """How many items the caller wants at most."""
    text = call.request.query.get("limit", str(DEFAULT))
    if not text.isdecimal() or not 1 <= int(text[:9]) <= MAX_PAGE:
        raise Refused("not a page size", field="limit", value=text, allowed=f"1 to {MAX_PAGE}")
    return int(text)


def after_of(call: Call) -> str:
    """The key of the last item the caller has; empty at the beginning."""
    text = call.request.query.get("cursor", "")
    try:
        return base64.b64decode(text.encode(), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise Refused("not a cursor of this list", field="cursor", value=text, allowed="`next` of a page") from error


def page_of(found: Sequence[T], limit: int, *, key: Callable[[T], str], view: Callable[[T], V]) -> Page[V]:
    """A page of at most `limit` items; `found` was asked for one more, to know whether there is another page."""
    items = found[:limit]
    more = len(found) > limit
    cursor = base64.urlsafe_b64encode(key(items[-1]).encode()).decode() if more else None
    return Page(items=tuple(view(item) for item in items), next=cursor)


def page_within(call: Call, items: Sequence[T], *, key: Callable[[T], str], view: Callable[[T], V]) -> Page[V]:
    """A page of a short list that was read whole; `items` are in the order of `key`."""
    after, limit = after_of(call), limit_of(call)
    return page_of([item for item in items if key(item) > after][: limit + 1], limit, key=key, view=view)
