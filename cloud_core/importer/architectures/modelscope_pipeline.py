"""ModelScope's own pipeline over a folder: what is exported is the model it holds, what is compared are its answers."""

import contextlib
from collections.abc import Iterator
from typing import Any

from modelscope.pipelines import pipeline

from cloud_core.importer.hub_files import HubFolder
from shared.protocol.errors import Refusal, Refused


def open_pipeline(folder: HubFolder) -> Any:
    """The pipeline that the folder's configuration names.

    Raises:
        Refused: ModelScope cannot open the folder either.

    """
    if not folder.has("vocab.txt") and not folder.has("tokenizer.json"):
        raise Refused("the folder has no vocabulary", kind=Refusal.UNPROCESSABLE, field="vocab.txt")
    with opening():
        opened = pipeline(task=folder.task, model=str(folder.path), device="cpu", trust_remote_code=False)
        # Built when it is first used; a vocabulary that cannot be read shows here.
        _ = opened.preprocessor.nlp_tokenizer.tokenizer
    return opened


@contextlib.contextmanager
def opening() -> Iterator[None]:
    """Around ModelScope's own opening of a folder.

    Raises:
        Refused: it cannot; says what it raised.

    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        # Whatever a library raises over a folder means that the folder is not of a form it knows.
        reason = " ".join(str(error).split())[:300]
        raise Refused(
            f"ModelScope cannot open the folder: {type(error).__name__}: {reason}",
            kind=Refusal.UNPROCESSABLE,
            field="source",
        ) from error


def tokenizer_of(opened: Any) -> Any:
    """The transformers tokenizer the pipeline encodes with.

    Raises:
        Refused: it pads on the left, which moves every token's position.

    """
    tokenizer = opened.preprocessor.nlp_tokenizer.tokenizer
    if tokenizer.padding_side != "right":
        raise Refused(
            "padding on the left", kind=Refusal.UNSUPPORTED, field="tokenizer_config.json.padding_side", allowed="right"
        )
    return tokenizer


def max_length_of(opened: Any) -> int:
    """Where the pipeline cuts a text, in tokens."""
    return int(opened.preprocessor.nlp_tokenizer.get_tokenizer_kwarg("max_length"))
