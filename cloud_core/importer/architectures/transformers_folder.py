"""A folder that transformers opens: model and tokenizer, in fp32, with nothing fetched and no code of its own."""

from typing import Any

import torch
from transformers import AutoTokenizer

from cloud_core.importer.hub_files import HubFolder
from shared.protocol.errors import Refusal, Refused

_UNLIMITED = 1_000_000
"""transformers says a number far beyond it where a tokenizer has no limit."""


def open_model(folder: HubFolder, kind: Any) -> tuple[Any, Any]:
    """The model as `kind` (an Auto class) opens it, and its tokenizer.

    Raises:
        Refused: transformers cannot open the folder.

    """
    try:
        model = kind.from_pretrained(
            str(folder.path),
            local_files_only=True,
            trust_remote_code=False,
            attn_implementation="eager",
            dtype=torch.float32,
        )
    except MemoryError:
        raise
    except Exception as error:
        raise _unopened(error) from error
    return model.eval(), open_tokenizer(folder)


def open_tokenizer(folder: HubFolder) -> Any:
    """The folder's tokenizer, in the form that runs outside transformers where it has one.

    Raises:
        Refused: no vocabulary, or one that cannot be read.

    """
    if not any(folder.has(name) for name in ("tokenizer.json", "vocab.txt", "vocab.json")):
        raise Refused(
            "the folder has no vocabulary",
            kind=Refusal.UNPROCESSABLE,
            field="tokenizer.json",
            allowed="tokenizer.json, vocab.txt, or vocab.json with merges.txt",
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder.path), use_fast=True, local_files_only=True, trust_remote_code=False
        )
    except MemoryError:
        raise
    except Exception as error:
        raise _unopened(error) from error
    if tokenizer.padding_side != "right":
        raise Refused(
            "padding on the left", kind=Refusal.UNSUPPORTED, field="tokenizer_config.json.padding_side", allowed="right"
        )
    return tokenizer


def token_limit(tokenizer: Any) -> int | None:
    """Where the tokenizer cuts, in tokens; None where it does not say."""
    limit = int(tokenizer.model_max_length)
    return limit if limit < _UNLIMITED else None


def _unopened(error: Exception) -> Refused:
    # Whatever a library raises over a folder means that the folder is not of a form it knows.
    reason = " ".join(str(error).split())[:300]
    return Refused(
        f"transformers cannot open the folder: {type(error).__name__}: {reason}",
        kind=Refusal.UNPROCESSABLE,
        field="source",
    )
