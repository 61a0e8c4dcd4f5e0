"""`python -m cloud_core.importer REQUEST.json WORK`: one import, in a process of its own. Its last word on stdout says how it ended."""

import importlib.util
import resource
import sys
import traceback
import warnings
from pathlib import Path

import msgspec

from cloud_core.importer import config
from cloud_core.importer.request import Ended, Failed, Imported, ImportRequest
from cloud_core.importer.saying import Wire
from shared.protocol.errors import Refused, TidelineError, shortened

USAGE = "usage: python -m cloud_core.importer REQUEST.json WORK"
_EXTRA = (
    "torch",
    "transformers",
    "modelscope",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "tokenizers",
    "safetensors",
    "numpy",
)
_NO_MEMORY = ("can't allocate memory", "bad_alloc", "Failed to allocate memory")


def main(arguments: list[str]) -> int:
    """0 where there is a bundle, 1 where there is none, 2 where it was started wrongly."""
    if len(arguments) != 2:
        sys.stderr.write(f"{USAGE}\n")
        return 2
    wire = Wire()
    # What libraries have to say of themselves would bury the one line that tells why it failed.
    warnings.simplefilter("ignore")
    ended = _ended(Path(arguments[0]), Path(arguments[1]), wire)
    wire.write(ended)
    return 0 if isinstance(ended, Imported) else 1


def _ended(request: Path, work: Path, wire: Wire) -> Ended:
    """How the import ended, whatever happened: who waits for it is always told."""
    try:
        asked = msgspec.json.decode(request.read_bytes(), type=ImportRequest)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Failed(message=f"not a request: {error}", code="malformed", field="request")
    try:
        _limit_memory(config.memory_limit())
        config.settle(work.resolve(), online=asked.hub is not None)
        if (missing := _missing()) is not None:
            return missing
        # Behind the settings on purpose: libraries read their environment when they are loaded.
        from cloud_core.importer.importing import import_model  # noqa: PLC0415

        return Imported(digest=import_model(asked, work.resolve(), wire.say))
    except Refused as error:
        value = None if error.value is None else shortened(error.value)
        return Failed(message=error.message, code=error.code, field=error.field, value=value, allowed=error.allowed)
    except TidelineError as error:
        return Failed(message=error.message, code=error.code)
    except MemoryError:
        return _too_large()
    except Exception as error:
        # Nothing a model does is worth ending without a word.
        if any(words in str(error) for words in _NO_MEMORY):
            return _too_large()
        traceback.print_exc()
        return Failed(message=f"the importer failed: {type(error).__name__}: {str(error)[:500]}", code="internal")


def _missing() -> Failed | None:
    """What the import extra would have installed and is not there."""
    missing = [name for name in _EXTRA if importlib.util.find_spec(name) is None]
    if not missing:
        return None
    return Failed(
        message=f"the importer needs {', '.join(missing)}: pip install 'tideline[import]'",
        code="import-extra-missing",
        field="import_python",
        allowed="a Python with tideline[import]",
    )


def _limit_memory(limit: int) -> None:
    """So much private memory and no more: what asks for it gets an error, and the machine's other processes stay."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    most = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (most, hard))


def _too_large() -> Failed:
    limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
    return Failed(message=f"the import needs more than {limit} B of memory", code="too-large", allowed=f"{limit} B")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
