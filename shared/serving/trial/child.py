"""`python -m shared.serving.trial.child PARENT`: the sacrificial child. It confines itself, tries one variant, says what it found, ends.

Standard input holds the request (JSON). What it says goes to the pipe that was its standard output, which no library can write
to any more: first a line with its isolation, then one with its verdict. What it dies of, the parent sees.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec
from msgspec.structs import replace

from shared.bundle.manifest import MANIFEST_FILE, MAX_BYTES, Manifest, Variant, parse_manifest
from shared.io import confine
from shared.protocol.errors import Refused, TidelineError
from shared.protocol.reported import Isolation
from shared.serving.arrangement import Arrangement
from shared.serving.trial.verdict import Died, Passed, TrialRequest, Verdict

LONGEST = 2000
"""Characters of a message."""
DIFFERENCES = 20


class Checks(Protocol):
    """What else is looked at before a variant is loaded."""

    def __call__(self, manifest: Manifest, variant: Variant, folder: Path) -> None:
        """Raises `Refused` for what must not be loaded."""
        ...


def main(prepare: Callable[[], Checks | None] = lambda: None) -> None:
    """Entry point; `prepare` imports what the checks need and gives them. Does not return."""
    verdicts = take_over_stdout()
    isolation = confine.detach(parent=int(sys.argv[1]))
    say(verdicts, isolation)
    request = msgspec.json.decode(sys.stdin.buffer.read() or b"null", type=TrialRequest | None)
    if request is not None:
        say(verdicts, _judged(request, isolation, prepare))
    # At once: what runtimes do when a process ends in order is not worth dying of.
    os._exit(0)


def _judged(request: TrialRequest, isolation: Isolation, prepare: Callable[[], Checks | None]) -> Verdict:
    # Behind the confinement on purpose: these start threads, and a process with threads enters no namespace.
    from shared.serving.trial import contents, replay  # noqa: PLC0415

    checks = prepare()
    # Not more than there is: where a container runs out of memory the kernel may end all of it, not only this.
    memory = min(request.limits.memory_bytes, confine.memory_left())
    confine.bound(memory_bytes=memory, cpu_seconds=int(request.limits.seconds * max(1, request.threads)) + 1)
    folder = Path(request.folder)
    died = Died(isolation=isolation, code="too-large", message=f"it needs more than {memory} B of memory")
    try:
        manifest = parse_manifest(request.manifest.encode() if request.manifest is not None else _manifest_in(folder))
        variant = manifest.variant(request.variant)
        contents.check_contents(manifest, variant, folder)
        if checks is not None:
            checks(manifest, variant, folder)
        if unrun := replay.lacking(variant):
            return Passed(isolation=isolation, unrun=unrun)
        tried = replay.replay(
            manifest,
            variant,
            folder,
            arrangement=Arrangement(threads=request.threads, runtime=request.runtime, precision=request.precision),
            measure=request.measure,
            plain=request.manifest is not None and not manifest.inputs,
        )
    except replay.GoldenDiffersError as error:
        found = tuple(what[:LONGEST] for what in error.differences[:DIFFERENCES])
        message = f"the golden set differs: {'; '.join(found[:3])}"
        return replace(died, code="golden-differs", message=message[:LONGEST], differences=found)
    except MemoryError:
        return died
    except TidelineError as error:
        message = error.message.replace(f"{folder}/", "")[:LONGEST]
        if replay.out_of_memory(message):
            return replace(died, message=f"{died.message}: {message}")
        return replace(
            died, code=error.code, message=message, field=error.field if isinstance(error, Refused) else None
        )
    except Exception as error:
        # Nothing a model does is a bug of the process that tries it.
        return replace(died, code="crashed", message=f"the trial failed: {type(error).__name__}: {error}"[:LONGEST])
    return Passed(
        isolation=isolation, measured=tried.measured, inputs=tried.inputs, outputs=tried.outputs, unrun=tried.unrun
    )


def _manifest_in(folder: Path) -> bytes:
    with (folder / MANIFEST_FILE).open("rb") as file:
        return file.read(MAX_BYTES + 1)


def take_over_stdout() -> int:
    """The pipe to say things to, which no library can write to any more."""
    verdicts = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    # Nobody reads it while this runs: what does not fit into the pipe is lost, and nothing waits for it.
    os.set_blocking(2, False)
    return verdicts


def say(verdicts: int, what: object) -> None:
    """Say one thing, as one line of JSON."""
    rest = memoryview(msgspec.json.encode(what) + b"\n")
    while rest:
        rest = rest[os.write(verdicts, rest) :]


if __name__ == "__main__":
    main()
