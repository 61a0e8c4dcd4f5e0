"""Weights: the only place where pickles are read, and the proof that what a library loaded is what the folder holds.

Everything is read and checked here first. What libraries load afterwards is what this module wrote again, so no library ever
sees a pickle that came from outside.
"""

import hashlib
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open

from cloud_core.importer.hub_files import read_object
from shared.protocol import names
from shared.protocol.errors import Refusal, Refused

SAFE, PICKLED = "model.safetensors", "pytorch_model.bin"
INDEX = ".index.json"
_STRIPPED = 3
"""Leading parts of a parameter's name that a wrapper, a backbone's prefix or a head's name may add."""
_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """`tensors` by name, as stored; `files` they came from, `sha256` of those files in order; `pickled` says which format."""

    tensors: Mapping[str, torch.Tensor]
    files: tuple[str, ...]
    sha256: str
    pickled: bool


def read_weights(folder: Path) -> Checkpoint:
    """The folder's weights; safetensors where it has both forms.

    Raises:
        Refused: none, not a plain state dict, or not finite; names the file or the weight.

    """
    for name, pickled in ((SAFE, False), (PICKLED, True)):
        files = _files(folder, name)
        if files:
            tensors: dict[str, torch.Tensor] = {}
            for file in files:
                found = _unpickled(folder / file) if pickled else _safe(folder / file)
                tensors.update(found)
            check_finite(tensors)
            return Checkpoint(tensors=tensors, files=files, sha256=_digest(folder, files), pickled=pickled)
    raise Refused(
        "the folder has no weights", kind=Refusal.UNPROCESSABLE, field="files", allowed=f"{SAFE} or {PICKLED}"
    )


def write_again(checkpoint: Checkpoint, path: Path) -> None:
    """The same state dict, pickled by us."""
    # A view would drag the whole storage it looks into along.
    torch.save({name: value.clone().contiguous() for name, value in checkpoint.tensors.items()}, path)


def check_finite(tensors: Mapping[str, torch.Tensor]) -> None:
    """Refuse NaN and infinity: such a model answers everything alike, or not at all."""
    for name, value in tensors.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise Refused("a weight is NaN or infinite", kind=Refusal.UNPROCESSABLE, field=name)


def check_loaded(module: torch.nn.Module, example: tuple[torch.Tensor, ...], checkpoint: Checkpoint) -> tuple[str, ...]:
    """The weights of the checkpoint that `module` has no use for; `example` is what its forward takes.

    Raises:
        Refused: a parameter that does not hold what the checkpoint has for it, such as one a library filled with random
            numbers because it found no weight of that name; names them.

    """
    stored = {_renamed(name): name for name in checkpoint.tensors}
    endings: dict[str, list[str]] = {}
    for name in stored:
        for ending in _endings(name):
            endings.setdefault(ending, []).append(name)
    used: set[str] = set()
    shared: dict[int, bool] = {}
    missing: list[str] = []
    for name, value in module.named_parameters(remove_duplicate=False):
        candidates = [found for ending in _endings(_renamed(name)) for found in endings.get(ending, ())]
        match = next((c for c in candidates if _same(value, checkpoint.tensors[stored[c]])), None)
        if match is not None:
            used.add(stored[match])
        known = shared.get(value.data_ptr(), False) or match is not None
        shared[value.data_ptr()] = known
        if not known:
            missing.append(name)
    # Tied weights are stored once, under either name.
    missing = [name for name in missing if not shared[module.get_parameter(name).data_ptr()]]
    missing = _needed(module, example, missing)
    if missing:
        shown = ", ".join(sorted(missing)[:_SHOWN]) + (", …" if len(missing) > _SHOWN else "")
        raise Refused(
            f"{len(missing)} weights of the model are not in the folder and would be random: {shown}",
            kind=Refusal.UNPROCESSABLE,
            field=", ".join(checkpoint.files),
            allowed="a state dict with every weight of the model its configuration names",
        )
    return tuple(sorted(set(checkpoint.tensors) - used))


def _files(folder: Path, name: str) -> tuple[str, ...]:
    if (folder / name).is_file():
        return (name,)
    index = read_object(folder / f"{name}{INDEX}")
    if index is None:
        return ()
    try:
        shards = msgspec.convert(index.get("weight_map"), dict[str, str])
    except msgspec.ValidationError as error:
        raise Refused(f"no index of shards: {error}", kind=Refusal.UNPROCESSABLE, field=f"{name}{INDEX}") from error
    files = tuple(sorted(set(shards.values())))
    for file in files:
        if names.FILE.fullmatch(file) is None or not (folder / file).is_file():
            raise Refused("a shard is missing", kind=Refusal.UNPROCESSABLE, field=f"{name}{INDEX}", value=file)
    return files


def _unpickled(path: Path) -> dict[str, torch.Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                value = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            except RuntimeError:
                # The older format, before torch 1.6, cannot be mapped.
                value = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:
        # The unpickler stumbles over broken bytes in as many ways as there are.
        reason = " ".join(str(error).split())[:200]
        raise _no_state_dict(path, f"{type(error).__name__}: {reason}") from error
    return _plain(value, path)


def _safe(path: Path) -> dict[str, torch.Tensor]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return _plain({name: file.get_tensor(name) for name in file.keys()}, path)  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise _no_state_dict(path, str(error)[:200]) from error


def _plain(value: Any, path: Path) -> dict[str, torch.Tensor]:
    if not isinstance(value, dict) or not value:
        raise _no_state_dict(path, f"it holds {type(value).__name__}")
    for name, tensor in value.items():
        plain = isinstance(tensor, torch.Tensor) and tensor.layout is torch.strided and not tensor.is_quantized
        if not isinstance(name, str) or not plain:
            raise _no_state_dict(path, f"{str(name)[:80]} is {type(tensor).__name__}")
    return dict(value)


def _no_state_dict(path: Path, why: str) -> Refused:
    return Refused(
        f"not a plain state dict: {why}",
        kind=Refusal.UNPROCESSABLE,
        field=path.name,
        allowed="names and tensors, nothing else; safetensors are best",
    )


def _renamed(name: str) -> str:
    # TensorFlow's names of a layer norm's weights, which the libraries rename as well.
    if name.endswith(".gamma"):
        return f"{name[:-6]}.weight"
    return f"{name[:-5]}.bias" if name.endswith(".beta") else name


def _endings(name: str) -> Iterator[str]:
    parts = name.split(".")
    for i in range(min(_STRIPPED, len(parts) - 2) + 1):
        yield ".".join(parts[i:])


def _same(loaded: torch.Tensor, stored: torch.Tensor) -> bool:
    return loaded.shape == stored.shape and bool(torch.equal(loaded.detach().cpu(), stored.to(loaded.dtype)))


def _needed(module: torch.nn.Module, example: tuple[torch.Tensor, ...], missing: list[str]) -> list[str]:
    """Those the answer depends on: a pooler that a tagger's backbone brings along may hold anything.

    What leaves in a file beside the graph is named by the module's own `exported_beside`: beginnings of parameters' names.
    """
    beside = tuple(getattr(module, "exported_beside", ()))
    needed = [name for name in missing if name.startswith(beside)] if beside else []
    missing = [name for name in missing if name not in needed]
    if not missing:
        return needed
    parameters = [module.get_parameter(name) for name in missing]
    with torch.enable_grad():
        outputs = module.eval()(*example)
        first = outputs if isinstance(outputs, torch.Tensor) else outputs[0]
        if not first.requires_grad:
            return needed + missing
        slopes = torch.autograd.grad(first.sum(), parameters, allow_unused=True)
    return needed + [name for name, slope in zip(missing, slopes, strict=True) if slope is not None]


def _digest(folder: Path, files: tuple[str, ...]) -> str:
    found = hashlib.sha256()
    for file in files:
        with (folder / file).open("rb") as opened:
            while block := opened.read(1 << 20):
                found.update(block)
    return found.hexdigest()
