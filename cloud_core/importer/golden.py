"""The golden set of an import: probes and a person's own inputs, with what the source answers; the bundle has to answer the same."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from cloud_core.importer.opened import Opened
from cloud_core.importer.probes import PROBES
from cloud_core.importer.saying import Say, silent
from shared.bundle.manifest import TaskKind
from shared.protocol.errors import Refusal, Refused, shortened
from shared.serving.answer import Result
from shared.serving.versions.golden import Golden, GoldenItem, difference

FILE = "golden.json"
TOLERANCE = 1e-4
"""Of a score or a vector's entry of the fp32 program."""
MAX_ITEMS = 2_000
MAX_BYTES = 64 << 20
_NUMBERS = 16
"""Of a vector, in the file: they and the norm tell another vector apart as well as all of them do."""
_SHOWN = 10
_AT_ONCE = 8
"""Texts the source answers before it is told how far it is: a large one takes a second for each."""


class _Line(msgspec.Struct, frozen=True, kw_only=True):
    text: str | None = None
    inputs: dict[str, object] | None = None
    expect: dict[str, object] | None = None


def golden_set(opened: Opened, path: Path | None, say: Say = silent) -> Golden:
    """Probes with the source's own answers, what the source brings along, and what the file at `path` asks for; whole answers.

    An input the source itself cannot answer is left out, unless the file says what it must give.

    Raises:
        Refused: the file is no golden set, or asks what nobody has an answer to.

    """
    own = () if path is None else read_items(path)
    given = tuple(item for item in own if item.expect is not None)
    asked = tuple(dict.fromkeys(item.text for item in own if item.expect is None and item.text is not None))
    if len(given) + len(asked) < len(own) or (asked and opened.reference is None):
        raise Refused(
            "the source has no pipeline to ask",
            kind=Refusal.UNPROCESSABLE,
            field="golden",
            allowed="items with `expect`, each an object of what the model must give",
        )
    items = [
        *opened.golden,
        *(GoldenItem(text=item.text, inputs=item.inputs, expect=item.expect or {}) for item in given),
    ]
    if opened.reference is not None:
        known = {item.text for item in items}
        texts = tuple(text for text in dict.fromkeys((*asked, *PROBES)) if text not in known)
        for start in range(0, len(texts), _AT_ONCE):
            say("compare", start / len(texts), f"the source answers {len(texts)} texts")
            some = texts[start : start + _AT_ONCE]
            answers = zip(some, opened.reference(some), strict=True)
            items += [GoldenItem(text=text, expect=expect) for text, expect in answers if expect is not None]
    if not items and opened.task is not TaskKind.TENSOR:
        raise Refused(
            "nothing to hold the model to", kind=Refusal.UNPROCESSABLE, field="golden", allowed="--golden FILE"
        )
    return Golden(items=tuple(items))


def read_items(path: Path) -> tuple[_Line, ...]:
    """The items of a golden set, or of a file with one JSON text or object per line.

    Raises:
        Refused: too large, or not of that form; names the line.

    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise Refused(
                "too large", kind=Refusal.TOO_LARGE, field="golden", value=path.name, allowed=f"{MAX_BYTES} B"
            )
        data = path.read_bytes()
    except OSError as error:
        text = f"cannot be read: {error.strerror}"
        raise Refused(text, kind=Refusal.NOT_FOUND, field="golden", value=path.name) from error
    try:
        whole = msgspec.json.decode(data, type=Golden)
        items = [_Line(text=item.text, inputs=item.inputs, expect=item.expect) for item in whole.items]
    except (msgspec.DecodeError, UnicodeDecodeError):
        items = [_line(line, number) for number, line in enumerate(data.splitlines(), 1) if line.strip()]
    if not 1 <= len(items) <= MAX_ITEMS:
        raise Refused(
            "not a golden set", kind=Refusal.UNPROCESSABLE, field="golden", value=len(items),
            allowed=f"1 to {MAX_ITEMS} items",
        )  # fmt: skip
    return tuple(items)


def check(golden: Golden, results: Sequence[Result], *, tolerance: float = TOLERANCE) -> None:
    """Refuse a program whose answers are not the source's, with a table of what differed."""
    differing = [
        (item, found)
        for item, result in zip(golden.items, results, strict=True)
        if (found := difference(item.expect, result, tolerance)) is not None
    ]
    if differing:
        raise Refused(
            f"the bundle does not answer as its source does: {len(differing)} of {len(golden.items)} differ\n"
            + table(differing),
            kind=Refusal.UNPROCESSABLE,
            field="source",
            code="golden-differs",
        )


def table(differing: Sequence[tuple[GoldenItem, str]]) -> str:
    """One line per input that came out otherwise, the first few of them."""
    lines = [
        f"  {shortened(item.text if item.text is not None else item.inputs, 40)}: {what}" for item, what in differing
    ]
    return "\n".join([*lines[:_SHOWN], *(["  …"] if len(lines) > _SHOWN else [])])


def in_file(golden: Golden) -> Golden:
    """As it travels: of a vector the first numbers and the norm, of a label no table of all scores."""
    return msgspec.structs.replace(golden, items=tuple(_shortened(item) for item in golden.items))


def _line(line: bytes, number: int) -> _Line:
    try:
        value = msgspec.json.decode(line, type=str | _Line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(
            f"neither a golden set nor a line of one: {error}",
            kind=Refusal.UNPROCESSABLE,
            field=f"golden[line {number}]",
            allowed='a JSON text, or {"text": …, "expect": {…}}',
        ) from error
    return _Line(text=value) if isinstance(value, str) else value


def _shortened(item: GoldenItem) -> GoldenItem:
    expect = {name: value for name, value in item.expect.items() if name != "scores"}
    vector = expect.get("embedding")
    if isinstance(vector, list):
        expect["embedding"] = [round(float(value), 7) for value in vector[:_NUMBERS]]
    return msgspec.structs.replace(item, expect=expect)
