"""Where a model comes from: a hub's repository is fetched, a folder or an `.onnx` file on disk is taken; nothing in it is read yet."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cloud_core.importer.request import ImportRequest
from cloud_core.importer.saying import Say
from cloud_core.importer.source_folder import check_source_folder
from shared.protocol.errors import Refusal, Refused, Transient, Unavailable

HUBS = ("modelscope:",)
FETCHED = "fetched"
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_REVISION = re.compile(r"[A-Za-z0-9][\w./-]{0,95}")
WANTED = ("*.json", "*.txt", "*.safetensors", "*.bin")
"""What is fetched of a repository: no pictures, no other frameworks' weights, no code."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """`path` is a folder, or an `.onnx` file. `about` tells the card where it came from."""

    path: Path
    about: Mapping[str, str] = field(default_factory=dict)


def obtain(request: ImportRequest, work: Path, say: Say) -> Source:
    """The source on this machine's disk.

    Raises:
        Refused: names nothing that is there; says which forms there are.
        Transient: the hub cannot be reached.

    """
    if (request.hub is None) == (request.path is None):
        raise Refused("exactly one of hub and path is set", field="source", value=request.said)
    if request.hub is not None:
        return _fetched(request.hub, work / FETCHED, say)
    path = Path(str(request.path))
    if path.is_symlink() or not (path.is_dir() or path.is_file()):
        raise Refused(
            "no such folder or file", kind=Refusal.NOT_FOUND, field="source", value=request.said, allowed=_ALLOWED
        )
    if path.is_file() and path.suffix != ".onnx":
        raise Refused("not a source", kind=Refusal.UNPROCESSABLE, field="source", value=request.said, allowed=_ALLOWED)
    if path.is_dir():
        check_source_folder(path)
    return Source(path=path.resolve(), about={"kind": "folder" if path.is_dir() else "onnx"})


_ALLOWED = "modelscope:<id>[@revision], a model's folder, or an .onnx file"


def parsed(hub: str) -> tuple[str, str | None]:
    """Id and revision of `modelscope:<id>[@revision]`.

    Raises:
        Refused: not of that form.

    """
    scheme = next((scheme for scheme in HUBS if hub.startswith(scheme)), None)
    name, at, revision = hub.removeprefix(scheme or "").partition("@")
    good = scheme is not None and _NAME.fullmatch(name) is not None and ".." not in hub
    if not good or (at and _REVISION.fullmatch(revision) is None):
        raise Refused("not a hub's model", kind=Refusal.UNPROCESSABLE, field="source", value=hub, allowed=_ALLOWED)
    return name, revision if at else None


def _fetched(hub: str, into: Path, say: Say) -> Source:
    name, revision = parsed(hub)
    # Loaded here only: an import from disk needs no client of the hub.
    from modelscope import snapshot_download  # noqa: PLC0415
    from modelscope_hub.errors import HubError  # noqa: PLC0415
    from requests import RequestException  # noqa: PLC0415

    say("fetch", 0.0, f"{name}@{revision}" if revision else name)
    try:
        folder = snapshot_download(name, revision=revision, local_dir=str(into), allow_patterns=list(WANTED))
    except (HubError, RequestException, OSError, ValueError) as error:
        raise _explained(error, hub) from error
    check_source_folder(Path(folder))
    about = {"kind": "modelscope", "id": name, "revision": revision or "master"}
    return Source(path=Path(folder), about=about)


def _explained(error: Exception, hub: str) -> Refused | Transient:
    text = str(error).partition("\n")[0][:300]
    # The hub's compatibility layer wraps "no such", "not yours" and "who are you" in one requests error each.
    first = error.__cause__ or error
    kinds = {
        "NotExistError": (Refusal.NOT_FOUND, "the hub has no such model or revision"),
        "AuthenticationError": (Refusal.UNAUTHENTICATED, "the hub wants to know who asks"),
        "PermissionDeniedError": (Refusal.FORBIDDEN, "the hub does not give this model to us"),
        "InvalidParameter": (Refusal.UNPROCESSABLE, "the hub cannot take this name"),
    }
    if type(first).__name__ in kinds:
        kind, message = kinds[type(first).__name__]
        allowed = "a public model's id as its page on modelscope.cn shows it, or a folder on disk"
        return Refused(f"{message}: {text}", kind=kind, field="source", value=hub, allowed=allowed)
    return Transient(
        f"{hub} cannot be fetched: {text}; the machine that imports needs to reach modelscope.cn: "
        "download the model where that is possible and import its folder",
        why=Unavailable.UNREACHABLE,
    )
