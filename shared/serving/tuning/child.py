"""`python -m shared.serving.tuning.child PARENT`: the process that measures. Confined as a trial's is; says every result as it comes.

Standard input holds the request (JSON). What to measure next it decides by the same rule as its parent, who so knows what it was
doing when it died.
"""

import os
import sys

import msgspec

from shared.io import confine
from shared.serving.trial.child import say, take_over_stdout
from shared.serving.tuning.wire import TuneRequest

_STACKS = 256 << 20
"""Address space that threads reserve and do not use, for each core."""


def main() -> None:
    """Entry point. Does not return."""
    pipe = take_over_stdout()
    say(pipe, confine.detach(parent=int(sys.argv[1])))
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=TuneRequest)
    # Behind the confinement on purpose: what this imports starts threads, and a process with threads enters no namespace.
    from shared.serving.tuning.measuring import measure  # noqa: PLC0415

    space, limits = request.space, request.limits
    # Not more than there is: where a container runs out of memory the kernel may end all of it, not only this.
    memory = min(limits.memory_bytes, confine.memory_left())
    seconds = (space.seconds + limits.seconds) * space.cores
    confine.bound(memory_bytes=memory + _STACKS * space.cores, cpu_seconds=int(seconds) + 1)
    measure(request, memory_bytes=memory, say=lambda line: say(pipe, line))
    # At once: what runtimes do when a process ends in order is not worth dying of.
    os._exit(0)


if __name__ == "__main__":
    main()
