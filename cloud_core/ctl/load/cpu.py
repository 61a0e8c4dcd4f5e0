"""Processor time of the server under load: of a process and all it started, or of this whole machine."""

import psutil

from shared.protocol.errors import Refusal, Refused


class Cpu:
    """Read it at both ends of a span; the difference is seconds of processor time."""

    def __init__(self, pid: int | None) -> None:
        """`pid` None is this machine.

        Raises:
            Refused: there is no such process, or it may not be looked at.

        """
        self._root: psutil.Process | None = None
        self._spent: dict[psutil.Process, float] = {}
        if pid is not None:
            try:
                self._root = psutil.Process(pid)
                self._root.cpu_times()
            except psutil.Error as error:
                raise Refused(
                    "no process to watch", kind=Refusal.NOT_FOUND, field="--pid", value=pid, allowed="a running process"
                ) from error

    def read(self) -> float:
        """Seconds of processor time until now. A child that ended counts with what it was last seen to have taken."""
        if self._root is None:
            every: dict[str, float] = psutil.cpu_times()._asdict()
            return sum(every.get(name, 0.0) for name in ("user", "nice", "system", "irq", "softirq"))
        try:
            tree = [self._root, *self._root.children(recursive=True)]
        except psutil.Error:
            tree = []
        for process in tree:
            try:
                times = process.cpu_times()
            except psutil.Error:
                continue
            self._spent[process] = times.user + times.system
        return sum(self._spent.values())
