"""The session port. A session is owned by one worker thread; only `terminate` may be called from another."""

from collections.abc import Mapping
from typing import Protocol

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

    def terminate(self) -> None:
        """Make a `run` in progress raise `Transient`; any thread may call it."""
        ...

    def close(self) -> None:
        """Give back memory and threads."""
        ...
