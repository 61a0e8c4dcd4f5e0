"""The importer's environment: what the hubs' libraries read of it is set here, before any of them is loaded."""

import os
from pathlib import Path

import psutil

_LEAST_MEMORY = 4 << 30
_SHARE = 0.9
_CACHE = "cache"


def settle(work: Path, *, online: bool) -> None:
    """Caches below `work`, nothing told to anybody, no downloads but the one that was asked for.

    Args:
        work: the folder of this import; what libraries leave there goes with it.
        online: whether the source is a hub's.

    """
    cache = work / _CACHE
    os.environ.update(
        {
            "HF_HOME": str(cache / "huggingface"),
            "MODELSCOPE_CACHE": str(cache / "modelscope"),
            "MPLCONFIGDIR": str(cache / "matplotlib"),
            "XDG_CACHE_HOME": str(cache),
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "HF_DATASETS_OFFLINE": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "DISABLE_TELEMETRY": "1",
            "DO_NOT_TRACK": "1",
            "MODELSCOPE_LOG_LEVEL": "40",
            "TRANSFORMERS_VERBOSITY": "error",
            "TOKENIZERS_PARALLELISM": "false",
            "TQDM_DISABLE": "1",
            # Threads that wait by spinning take the cores of what serves on this machine, and of each other.
            "OMP_WAIT_POLICY": "PASSIVE",
            "OMP_NUM_THREADS": str(threads()),
            "USE_TF": "0",
            "USE_FLAX": "0",
        }
    )
    # A proxy is a way out as well; where nothing is to be fetched there is none.
    dropped = ("LOCAL_RANK", "MODELSCOPE_INDEX_FILE", *(() if online else ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")))
    for name in dropped:
        os.environ.pop(name, None)
        os.environ.pop(name.lower(), None)


def memory_limit() -> int:
    """Bytes of address space this import may take: most of what the machine has to give now."""
    return max(int(psutil.virtual_memory().available * _SHARE), _LEAST_MEMORY)


def threads() -> int:
    """Threads of one computation: half of the machine's cores."""
    return max(1, (os.cpu_count() or 1) // 2)
