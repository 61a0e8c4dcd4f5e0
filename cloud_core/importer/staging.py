"""The folder libraries get to see: the files a model is made of, copied out of what came from outside, and nothing else."""

import os
import shutil
import stat
from pathlib import Path

from cloud_core.importer.weights import PICKLED, SAFE, Checkpoint, write_again
from shared.bundle.store import disk
from shared.protocol.errors import Refusal, Refused

NAMES = (
    "configuration.json",
    "config.json",
    "generation_config.json",
    "label_mapping.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "modules.json",
    "notes.md",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
)
"""Besides weights: what says how a model is built and what its words are. Code, pictures and other frameworks stay out."""
_INNER = "config.json"
"""Of a folder within, as sentence-transformers have one per step."""
_MAX_INNER = 16


def stage_files(source: Path, into: Path) -> Path:
    """Copy the files that describe the model; weights follow by `stage_weights`.

    Raises:
        Refused: something that is not a regular file.
        Transient: the disk is full or failing.

    """
    # Not named after the source: modelscope takes a path with "lstm" in it for another kind of model.
    into.mkdir(parents=True)
    for name in NAMES:
        _copy(source / name, into / name)
    inner = sorted(entry for entry in source.iterdir() if entry.is_dir() and not entry.is_symlink())
    for folder in inner[:_MAX_INNER]:
        if (folder / _INNER).exists():
            (into / folder.name).mkdir()
            _copy(folder / _INNER, into / folder.name / _INNER)
    return into


def stage_weights(checkpoint: Checkpoint, source: Path, into: Path, *, pickled: bool) -> None:
    """The weights that were checked; `pickled` where the library that reads them next knows no safetensors."""
    with disk("copying weights"):
        if checkpoint.pickled or pickled:
            write_again(checkpoint, into / PICKLED)
            for name in (f"{SAFE}.index.json", f"{PICKLED}.index.json"):
                (into / name).unlink(missing_ok=True)
        else:
            for file in checkpoint.files:
                _copy(source / file, into / file)


def _copy(source: Path, into: Path) -> None:
    try:
        handle = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _irregular(source) from error
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise _irregular(source)
        with disk(f"copying {source.name}"), into.open("xb") as target:
            shutil.copyfileobj(file, target, 1 << 20)


def _irregular(path: Path) -> Refused:
    return Refused("not a regular file", kind=Refusal.UNPROCESSABLE, field=path.name, allowed="files, no links")
