"""Progress of long work, on the error stream: a bar on a terminal, a line per step elsewhere, nothing where JSON is asked for."""

import contextlib
from collections.abc import Iterator

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from cloud_core.ctl.output import console, size_of


class Steps:
    """Tells of one step after the other."""

    def __init__(self, bar: Progress | None, *, quiet: bool) -> None:
        self._bar = bar
        self._quiet = quiet
        self._task = None if bar is None else bar.add_task("", total=1.0, detail="")
        self._said = ""

    def step(self, name: str, done: float | None = None, detail: str = "") -> None:
        """`done` of all that the bar stands for, 0 to 1; None where nobody knows."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=name, total=None if done is None else 1.0, completed=done or 0.0)
            self._bar.update(self._task, detail=detail)
        elif not self._quiet and name != self._said:
            share = "" if done is None else f"{100 * done:.0f} % "
            console(stderr=True).print(f"{share}{name} {detail}".rstrip(), markup=False, soft_wrap=True)
        self._said = name

    def bytes(self, name: str, done: int, total: int) -> None:
        """A step that is measured in bytes."""
        if total:
            self.step(name, done / total, f"{size_of(done)} of {size_of(total)}")


@contextlib.contextmanager
def steps(*, as_json: bool) -> Iterator[Steps]:
    """Progress until the block ends; a bar is gone then."""
    stream = console(stderr=True)
    if as_json or not stream.is_terminal:
        yield Steps(None, quiet=as_json)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[detail]}", markup=False),
    )
    with Progress(*columns, console=stream, transient=True) as bar:
        yield Steps(bar, quiet=False)
