"""The JSON files of a hub's folder, read with bounds: what form the folder has, and nothing in it that names code to run."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from shared.protocol.errors import Refusal, Refused

CONFIGURATION, CONFIG = "configuration.json", "config.json"
MAX_JSON = 4 << 20
MAX_TOKENIZER = 64 << 20
_DICTIONARIES = ("tokenizer.json", "vocab.json", "added_tokens.json", "label_mapping.json")
"""Files whose field names are a model's own words."""
_WORDS = ("label2id", "id2label", "vocab")
_CODE = {
    "plugins": "a plugin",
    "allow_remote": "code of its repository",
    "auto_map": "code of its repository",
    "custom_pipelines": "code of its repository",
    "trust_remote_code": "code of its repository",
}
"""Fields by which a folder asks for code to be run."""

Json = Mapping[str, Any]


def read_json(path: Path) -> Any:
    """What the file says.

    Raises:
        Refused: too large, too deep, or not JSON; names the file.

    """
    limit = MAX_TOKENIZER if path.name in _DICTIONARIES else MAX_JSON
    try:
        size = path.stat().st_size
        if size > limit:
            raise Refused("too large", kind=Refusal.TOO_LARGE, field=path.name, value=size, allowed=f"{limit} B")
        return msgspec.json.decode(path.read_bytes())
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(f"not JSON: {error}", kind=Refusal.UNPROCESSABLE, field=path.name) from error
    except OSError as error:
        text = f"cannot be read: {error.strerror}"
        raise Refused(text, kind=Refusal.UNPROCESSABLE, field=path.name) from error


def read_object(path: Path) -> Json | None:
    """The file's object; None where there is no such file.

    Raises:
        Refused: as `read_json`, or something else than an object.

    """
    if not path.exists():
        return None
    value = read_json(path)
    if not isinstance(value, dict):
        raise Refused("not a JSON object", kind=Refusal.UNPROCESSABLE, field=path.name, value=type(value).__name__)
    return value


@dataclass(frozen=True, kw_only=True)
class HubFolder:
    """A folder that was checked; `configuration` is ModelScope's own file, `config` that of transformers."""

    path: Path
    configuration: Json | None
    config: Json | None

    @property
    def task(self) -> str | None:
        """ModelScope's name of the task."""
        return _text(self.configuration, "task")

    @property
    def model_kind(self) -> str | None:
        """ModelScope's name of the model, as its own loader picks it."""
        model = section(self.configuration, "model")
        return _text(model, "type") or _text(model, "model_type")

    @property
    def backbone(self) -> str | None:
        """The kind of encoder, for people."""
        model = section(self.configuration, "model")
        return _text(section(model, "backbone"), "type") or self.family or self.model_kind

    @property
    def pipeline_kind(self) -> str | None:
        """ModelScope's name of the pipeline; a folder without one is read by transformers."""
        return _text(section(self.configuration, "pipeline"), "type")

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes `config.json` names under `architectures`."""
        named = (self.config or {}).get("architectures")
        return tuple(name for name in named if isinstance(name, str)) if isinstance(named, list) else ()

    @property
    def family(self) -> str | None:
        """`model_type` of `config.json`."""
        return _text(self.config, "model_type")

    def has(self, name: str) -> bool:
        """Whether the folder has such a file."""
        return (self.path / name).is_file()


def open_folder(path: Path) -> HubFolder:
    """The folder's two configurations, when no JSON file of it asks for code.

    Raises:
        Refused: broken JSON, or a field that names code; says which.

    """
    for file in sorted(path.rglob("*.json")):
        value = read_json(file)
        if file.name not in _DICTIONARIES:
            refuse_code(value, str(file.relative_to(path)))
    return HubFolder(path=path, configuration=read_object(path / CONFIGURATION), config=read_object(path / CONFIG))


def refuse_code(value: Any, file: str) -> None:
    """Refuse a configuration that names code to be run, however deep."""
    for path, name, found in _fields(value, file):
        if name in _CODE and found not in (None, False, [], {}, ""):
            raise Refused(
                f"the model needs {_CODE[name]} to be run",
                kind=Refusal.UNSUPPORTED,
                field=path,
                value=found,
                allowed="models that modelscope and transformers can open by themselves",
            )


def section(value: Json | None, name: str) -> Json | None:
    """A nested object; None where there is none."""
    found = (value or {}).get(name)
    return found if isinstance(found, dict) else None


def _text(value: Json | None, name: str) -> str | None:
    found = (value or {}).get(name)
    return found if isinstance(found, str) else None


def _fields(value: Any, path: str) -> Iterator[tuple[str, str, Any]]:
    """Every field of every object, with its path; without recursion, since depth is the author's to choose."""
    waiting = [(path, value)]
    while waiting:
        at, found = waiting.pop()
        if isinstance(found, dict):
            for name, inner in found.items():
                yield f"{at}.{name}", name, inner
                if name not in _WORDS:
                    waiting.append((f"{at}.{name}", inner))
        elif isinstance(found, list):
            waiting.extend((f"{at}[{i}]", inner) for i, inner in enumerate(found))
