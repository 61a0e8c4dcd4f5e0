"""What `edge-agent tune` shows: every way that was measured, how long it took, and what was chosen."""

from collections.abc import Sequence

import msgspec
from rich.console import Console, Group
from rich.status import Status
from rich.table import Table
from rich.text import Text

from shared.serving.arrangement import Arrangement
from shared.serving.decide.tuned import Record, Row
from shared.serving.decide.tuning import Progress


class Watch:
    """What is being measured, on a terminal while it lasts; nothing where nobody watches."""

    def __init__(self, console: Console) -> None:
        self._status: Status | None = console.status("") if console.is_terminal else None

    def told(self, label: str, progress: Progress) -> None:
        """There is more known of a version."""
        if self._status is not None:
            self._status.start()
            self._status.update(f"{label}: {len(progress.samples)} measurements, {progress.spent:.0f} s")

    def stop(self) -> None:
        """It is over."""
        if self._status is not None:
            self._status.stop()


def shown(records: Sequence[Record]) -> Group:
    """A table for each version."""
    return Group(*(part for record in records for part in (_table(record), _verdict(record))))


def as_json(records: Sequence[Record]) -> object:
    """The records, with what was measured in seconds."""
    return msgspec.to_builtins(tuple(records), str_keys=True)


def words_of(arrangement: Arrangement) -> str:
    """Such as `2 x 1 threads`."""
    parts = [f"{arrangement.lanes} x {arrangement.threads} threads"]
    if arrangement.spinning:
        parts.append("spinning")
    if arrangement.rows is not None:
        parts.append(f"{arrangement.rows} rows")
    return ", ".join(parts)


def runtime_of(arrangement: Arrangement) -> str:
    """Such as `openvino bf16`."""
    return f"{arrangement.runtime} {arrangement.precision}".strip()


def _table(record: Record) -> Table:
    bursts = sorted({n for row in record.rows for n in row.seconds})
    machine = record.machine.model or record.machine.machine
    title = f"{record.name} {record.version} on {machine}, {record.space.cores} cores"
    caption = "milliseconds in which so many requests that come at once are answered; lanes x threads"
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left", box=None, pad_edge=False)
    for name in ("", "STAGE", "VARIANT", "RUNTIME", "LANES"):
        table.add_column(name, no_wrap=True)
    for name in ("ROWS", *map(str, bursts), "ROUNDS"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in record.rows:
        times = (f"{row.seconds[n] * 1000:.2f}" if n in row.seconds else "-" for n in bursts)
        how, mark = row.way.arrangement, ">" if row.chosen else "x" if row.out else ""
        share, rows = f"{how.lanes} x {how.threads}{' spin' if how.spinning else ''}", str(how.rows or "-")
        style = "green" if row.chosen else "red" if row.out else None
        cells = (mark, row.stage.value, row.way.variant, runtime_of(how), share, rows, *times, str(row.rounds))
        table.add_row(*cells, style=style)
    return table


def _verdict(record: Record) -> Text:
    lines = [
        f"out: {row.way.variant} by {runtime_of(row.way.arrangement)}, {words_of(row.way.arrangement)}: {_why(row)}"
        for row in record.rows
        if row.out
    ]
    if record.way is None:
        lines.append(f"nothing to be recommended: {record.reason.value}")
    else:
        how = record.way.arrangement
        lines.append(
            f"best: {record.way.variant} by {runtime_of(how)}, {words_of(how)}; measured in {record.spent:.1f} s"
        )
        lines.append(
            "an agent that serves it follows within a minute; another variant is loaded from its next start on"
        )
    return Text("\n".join((*lines, "")))


def _why(row: Row) -> str:
    return f"{row.out}: {row.detail}" if row.detail else row.out
