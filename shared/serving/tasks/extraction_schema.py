"""What an extraction looks for: types nested as in `{"person": {"school": null, "city": null}}`; null ends a path."""

from collections.abc import Mapping

import msgspec

from shared.protocol.errors import Refusal, Refused

Schema = Mapping[str, "Schema | None"]

DEFAULT = '{"人物": null, "地理位置": null, "组织机构": null}'
"""Where neither request nor bundle names anything: the example of ModelScope's own pipeline."""
DEEPEST, MOST_TYPES, LONGEST_TYPE, LONGEST = 4, 64, 64, 16_384


def parse_schema(value: object, *, field: str) -> Schema:
    """A checked schema out of an object or its JSON text; at most `DEEPEST` levels and `MOST_TYPES` types in all.

    Raises:
        Refused: anything else; `field` and the path within it name the place.

    """
    if isinstance(value, str):
        if len(value) > LONGEST:
            raise _bad("too long", field, f"{len(value)} characters", f"at most {LONGEST} characters")
        try:
            value = msgspec.json.decode(value)
        except (msgspec.DecodeError, RecursionError) as error:
            raise _bad(f"not JSON: {error}", field, value, None) from error
    left = MOST_TYPES

    def checked(level: object, path: str, depth: int) -> dict[str, Schema | None]:
        nonlocal left
        if not isinstance(level, Mapping) or not level:
            raise _bad("not types to look for", path, level, 'an object that is not empty, such as {"person": null}')
        if depth > DEEPEST:
            raise _bad("too deep", path, depth, f"at most {DEEPEST} levels")
        left -= len(level)
        if left < 0:
            raise _bad("too many types", field, f"over {MOST_TYPES}", f"at most {MOST_TYPES}")
        for name in level:
            if not isinstance(name, str) or not name.strip() or len(name) > LONGEST_TYPE:
                raise _bad("not a type", path, name, f"a text of 1 to {LONGEST_TYPE} characters")
        return {
            name: None if below is None else checked(below, f"{path}.{name}", depth + 1)
            for name, below in level.items()
        }

    return checked(value, field, 1)


def _bad(message: str, field: str, value: object, allowed: str | None) -> Refused:
    return Refused(message, kind=Refusal.UNPROCESSABLE, field=field, value=value, allowed=allowed)
