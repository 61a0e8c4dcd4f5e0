"""The device's NVIDIA accelerators, asked of the driver's own program; a device without it has none that can be told of."""

import shutil
import subprocess

from shared.protocol.telemetry import Gpu

QUERY = ("--query-gpu=name,utilization.gpu,memory.used,memory.total", "--format=csv,noheader,nounits")
MIB = 1024 * 1024
PATIENCE_S = 5.0


class Accelerators:
    """Blocks while the driver answers."""

    def __init__(self, program: str = "nvidia-smi") -> None:
        """`program` is looked for once, on the path."""
        self._program = shutil.which(program)

    def look(self) -> tuple[Gpu, ...]:
        """All of them now; none where the driver does not answer, or not in figures."""
        if self._program is None:
            return ()
        try:
            said = subprocess.run(  # noqa: S603 - the driver's own program, fixed words
                [self._program, *QUERY], capture_output=True, text=True, check=True, timeout=PATIENCE_S
            ).stdout
        except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
            return ()
        return tuple(gpu for line in said.splitlines() if (gpu := _gpu(line)) is not None)


def _gpu(line: str) -> Gpu | None:
    """One line of figures; None where one of them is not known (`[N/A]`, as on boards that share the host's memory)."""
    name, *figures = (part.strip() for part in line.rsplit(",", 3))
    try:
        percent, used, total = (float(figure) for figure in figures)
    except ValueError:
        return None
    return Gpu(
        name=name, utilization=percent / 100.0, memory_bytes=int(used * MIB), memory_total_bytes=int(total * MIB)
    )
