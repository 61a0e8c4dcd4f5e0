import shutil
from pathlib import Path

import pytest

from edge_agent.telemetry.accelerators import MIB, Accelerators
from shared.protocol.telemetry import Gpu


def driver(folder: Path, *lines: str, status: int = 0) -> str:
    """A program that says what the driver's would."""
    program = folder / "nvidia-smi"
    said = "\n".join(lines)
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{said}\nEND\nexit {status}\n")
    program.chmod(0o755)
    return str(program)


def test_each_accelerator_is_told(tmp_path: Path) -> None:
    program = driver(tmp_path, "NVIDIA H200, 37, 1024, 143771", "Tesla T4, 0, 0, 15360")
    assert Accelerators(program).look() == (
        Gpu(name="NVIDIA H200", utilization=0.37, memory_bytes=1024 * MIB, memory_total_bytes=143771 * MIB),
        Gpu(name="Tesla T4", utilization=0.0, memory_bytes=0, memory_total_bytes=15360 * MIB),
    )


@pytest.mark.parametrize(
    ("line", "status"),
    [("Orin, [N/A], [N/A], [N/A]", 0), ("", 0), ("No devices were found", 0), ("NVIDIA H200, 1, 2, 3", 9)],
)
def test_what_is_not_known_is_not_told(tmp_path: Path, line: str, status: int) -> None:
    assert Accelerators(driver(tmp_path, line, status=status)).look() == ()


def test_without_the_driver_there_are_none(tmp_path: Path) -> None:
    assert Accelerators(str(tmp_path / "nothing")).look() == ()


@pytest.mark.skipif(shutil.which("nvidia-smi") is None, reason="no NVIDIA driver")
def test_a_real_driver_answers() -> None:
    gpus = Accelerators().look()
    assert gpus
    assert all(0.0 <= gpu.utilization <= 1.0 and 0 <= gpu.memory_bytes <= gpu.memory_total_bytes for gpu in gpus)
