"""Named entities: RaNER (transformer and CRF) and softmax taggers in ModelScope's forms, and token classification of transformers."""

import io
from typing import Any

import numpy as np
from transformers import TokenClassificationPipeline

from cloud_core.importer.architectures import encoder_graph
from cloud_core.importer.architectures.labels import in_order
from cloud_core.importer.architectures.modelscope_pipeline import max_length_of, open_pipeline, tokenizer_of
from cloud_core.importer.architectures.transformers_folder import open_model, token_limit
from cloud_core.importer.hub_files import HubFolder
from cloud_core.importer.opened import Expect, Opened, Reference, Traced
from cloud_core.importer.tokenizer import FILE, TokenizerFile, tokenizer_file
from shared.bundle.manifest import Processing, TaskKind
from shared.serving.tasks.crf import spans

CRF_FILE = "crf.npz"
_CHAIN = ("start_transitions", "transitions", "end_transitions")
_SPECIAL = 2
_PROMPT = "[SEP]"
"""By characters, ModelScope takes what follows it for a prompt and leaves it undecoded; here it is five characters of the text."""


class _Emissions(encoder_graph.Logits):
    """Logits that are scores of tags [rows, longest, tags]."""

    # Not part of the graph, and needed all the same.
    exported_beside = ("model.head.crf.",)


def open_modelscope(folder: HubFolder) -> Opened:
    """A folder in a form ModelScope's named entity pipeline takes, with a CRF or without."""
    opened = open_pipeline(folder)
    made = encoder_graph.traced(_Emissions(opened.model), "emissions", per_token=True)
    chain = getattr(opened.model.head, "crf", None)
    tokenizer = opened.preprocessor.nlp_tokenizer
    char_level = bool(tokenizer.get_tokenizer_kwarg("is_split_into_words", False))
    limit = encoder_graph.longest(max_length_of(opened), opened.model)
    file = tokenizer_file(tokenizer_of(opened))
    kind = "CRF" if chain is not None else "softmax"
    return _opened(
        f"{folder.backbone} token classification, {kind} (ModelScope)",
        made,
        labels=in_order(opened.id2label, encoder_graph.width(made)),
        tokenizer=file,
        # Composing a text moves the offsets of what follows, so it is not done where places are told.
        processing=Processing(
            tokenizer=FILE,
            max_length=limit,
            lowercase=file.lowercase,
            char_level=char_level,
            crf=CRF_FILE if chain is not None else None,
        ),
        files={CRF_FILE: _chain(chain)} if chain is not None else {},
        reference=_modelscope_answers(opened, limit=limit, char_level=char_level, scored=chain is not None),
    )


def open_transformers(folder: HubFolder) -> Opened:
    """A folder of a `…ForTokenClassification`; a word has the tag of its first piece."""
    from transformers import AutoModelForTokenClassification  # noqa: PLC0415 - loads every model's names

    model, tokenizer = open_model(folder, AutoModelForTokenClassification)
    made = encoder_graph.traced(_Emissions(model), "emissions", per_token=True)
    limit = encoder_graph.longest(token_limit(tokenizer), model)
    file = tokenizer_file(tokenizer)
    return _opened(
        f"{folder.family} token classification (transformers)",
        made,
        labels=in_order(model.config.id2label, model.config.num_labels),
        tokenizer=file,
        processing=Processing(tokenizer=FILE, max_length=limit, lowercase=file.lowercase),
        files={},
        reference=_transformers_answers(model, tokenizer, limit=limit),
    )


def _opened(
    architecture: str,
    made: Traced,
    *,
    labels: tuple[str, ...],
    tokenizer: TokenizerFile,
    processing: Processing,
    files: dict[str, bytes],
    reference: Reference,
) -> Opened:
    encoder_graph.check_tokenizer(tokenizer, made.module)
    return Opened(
        architecture=architecture,
        task=TaskKind.TOKEN_CLASSIFICATION,
        processing=processing,
        labels=labels,
        traced=made,
        reference=reference,
        files={FILE: tokenizer.data, **files},
    )


def _chain(chain: Any) -> bytes:
    """The CRF's parameters as `crf.npz`: transitions are (from, to)."""
    buffer = io.BytesIO()
    np.savez(buffer, **{name: getattr(chain, name).detach().numpy().astype(np.float32) for name in _CHAIN})
    return buffer.getvalue()


def _modelscope_answers(opened: Any, *, limit: int, char_level: bool, scored: bool) -> Reference:
    tokenizer = opened.preprocessor.nlp_tokenizer.tokenizer
    special = (_PROMPT,) if char_level else tuple(tokenizer.all_special_tokens)

    def answer(text: str) -> Expect:
        # By words every special token that a text names becomes one; here it is text.
        if any(token in text for token in special):
            return None
        if char_level:
            pieces = sum(max(1, len(tokenizer.encode(each, add_special_tokens=False))) for each in text)
        else:
            pieces = len(tokenizer.encode(text, add_special_tokens=False))
        # It fails on a text without pieces. By characters it fails on one that is too long as well, by words it cuts that
        # without saying so; here such a text is read in windows.
        if not 0 < pieces <= limit - _SPECIAL:
            return None
        try:
            found = opened(text)["output"]
        except ValueError:
            if char_level or tokenizer.is_fast:
                raise
            # The slow tokenizer looks for pieces in the text as they are written, and [UNK] is not there.
            return None
        return {"entities": [_entity(entry, text, scored=scored) for entry in found]}

    return lambda texts: [answer(text) for text in texts]


def _entity(entry: Any, text: str, *, scored: bool) -> dict[str, object]:
    start, end = int(entry["start"]), int(entry["end"])
    known: dict[str, object] = {"type": str(entry["type"]), "start": start, "end": end, "text": text[start:end]}
    # Without a CRF ModelScope takes the probability of the token before: no figure to hold anybody to.
    return known | ({"score": float(entry["prob"])} if scored else {})


def _transformers_answers(model: Any, tokenizer: Any, *, limit: int) -> Reference:
    """The tags transformers' pipeline gives to the first piece of every word, put together by the rule of the engine."""
    tagger = TokenClassificationPipeline(model=model, tokenizer=tokenizer, device=-1)

    def answer(text: str) -> Expect:
        encoded = tokenizer(text)
        special = any(token in text for token in tokenizer.all_special_tokens)
        if special or not _SPECIAL < len(encoded["input_ids"]) <= limit:
            return None
        places = encoded.word_ids()
        words: list[Any] = []
        for piece in tagger(text, aggregation_strategy="none", ignore_labels=[]):
            place = places[piece["index"]]
            if words and place == words[-1]["place"]:
                words[-1]["end"] = piece["end"]
            else:
                words.append({**piece, "place": place})
        found = []
        for span in spans([word["entity"] for word in words]):
            first, last = words[span.start], words[span.end - 1]
            start, end = int(first["start"]), int(last["end"])
            known = {"type": span.type, "start": start, "end": end, "text": text[start:end]}
            found.append(known | {"score": float(first["score"])})
        return {"entities": found}

    return lambda texts: [answer(text) for text in texts]
