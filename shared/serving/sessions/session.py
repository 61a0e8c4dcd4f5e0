"""The session port. A session is run by one thread at a time; only `interrupt` may be called from another.

Lanes that run one program at once are sessions too, siblings over the same loaded program.
"""

from collections.abc import Mapping
from typing import Protocol, Self

from shared.bundle.manifest import TensorSpec
from shared.serving.answer import Array

Feeds = Mapping[str, Array]
Outputs = Mapping[str, Array]


class Session(Protocol):
    """Runs one variant of one model version."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What `run` wants, once loaded."""
        ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What `run` gives, once loaded."""
        ...

    def load(self) -> None:
        """Get ready to run. Raises `Corrupt` for a program that cannot be loaded."""
        ...

    def run(self, feeds: Feeds) -> Outputs:
        """The outputs of one run of the program; rows of a batch keep their place.

        Raises:
            Refused: the program cannot take these inputs.
            Transient: it was ended, or is closed.
            Corrupt: it failed.

        """
        ...

    def sibling(self) -> Self:
        """Another session over the same program, once it is loaded, for another thread to run at the same time."""
        ...

    def interrupt(self) -> None:
        """Make a `run` in progress, and later ones, raise `Transient`, until `resume`; any thread may call it."""
        ...

    def resume(self) -> None:
        """Let runs run again."""
        ...

    def close(self) -> None:
        """Give back memory and threads."""
        ...
