"""Text classification: StructBERT and BERT in ModelScope's forms, and sequence classification of transformers."""

from collections.abc import Sequence
from typing import Any

from transformers import pipeline as transformers_pipeline

from cloud_core.importer.architectures import encoder_graph
from cloud_core.importer.architectures.labels import in_order
from cloud_core.importer.architectures.modelscope_pipeline import max_length_of, open_pipeline, tokenizer_of
from cloud_core.importer.architectures.transformers_folder import open_model, token_limit
from cloud_core.importer.hub_files import HubFolder
from cloud_core.importer.opened import Expect, Opened, Reference
from cloud_core.importer.tokenizer import FILE, TokenizerFile, tokenizer_file
from shared.bundle.manifest import Processing, TaskKind
from shared.protocol.errors import Refusal, Refused


def open_modelscope(folder: HubFolder) -> Opened:
    """A folder in a form ModelScope's text classification pipeline takes."""
    opened = open_pipeline(folder)
    made = encoder_graph.traced(encoder_graph.Logits(opened.model), "logits", per_token=False)
    labels = in_order(getattr(opened.preprocessor, "id2label", None), encoder_graph.width(made))

    def reference(texts: Sequence[str]) -> list[Expect]:
        return [_expect(*_pair(opened(text))) for text in texts]

    tokenizer = tokenizer_file(tokenizer_of(opened))
    return _opened(
        f"{folder.backbone} text classification (ModelScope)",
        made,
        labels=labels,
        tokenizer=tokenizer,
        max_length=encoder_graph.longest(max_length_of(opened), opened.model),
        reference=reference,
    )


def open_transformers(folder: HubFolder) -> Opened:
    """A folder of a `…ForSequenceClassification`."""
    from transformers import AutoModelForSequenceClassification  # noqa: PLC0415 - loads every model's names

    model, tokenizer = open_model(folder, AutoModelForSequenceClassification)
    config = model.config
    if config.problem_type not in (None, "single_label_classification") or config.num_labels < 2:
        raise Refused(
            "not one label out of several",
            kind=Refusal.UNSUPPORTED,
            field="config.json.problem_type",
            value=config.problem_type or f"{config.num_labels} labels",
            allowed="single_label_classification with two labels or more",
        )
    made = encoder_graph.traced(encoder_graph.Logits(model), "logits", per_token=False)
    limit = encoder_graph.longest(token_limit(tokenizer), model)
    classify = transformers_pipeline("text-classification", model=model, tokenizer=tokenizer, device=-1)

    def reference(texts: Sequence[str]) -> list[Expect]:
        found = []
        for text in texts:
            answers = classify(text, top_k=None, truncation=True, max_length=limit, function_to_apply="softmax")
            found.append(_expect([entry["label"] for entry in answers], [entry["score"] for entry in answers]))
        return found

    return _opened(
        f"{folder.family} text classification (transformers)",
        made,
        labels=in_order(config.id2label, config.num_labels),
        tokenizer=tokenizer_file(tokenizer),
        max_length=limit,
        reference=reference,
    )


def _opened(
    architecture: str,
    made: Any,
    *,
    labels: tuple[str, ...],
    tokenizer: TokenizerFile,
    max_length: int,
    reference: Reference,
) -> Opened:
    encoder_graph.check_tokenizer(tokenizer, made.module)
    return Opened(
        architecture=architecture,
        task=TaskKind.TEXT_CLASSIFICATION,
        processing=Processing(tokenizer=FILE, max_length=max_length, lowercase=tokenizer.lowercase, nfc=tokenizer.nfc),
        labels=labels,
        traced=made,
        reference=reference,
        files={FILE: tokenizer.data},
    )


def _pair(answer: Any) -> tuple[list[str], list[float]]:
    return list(answer["labels"]), list(answer["scores"])


def _expect(labels: Sequence[Any], scores: Sequence[float]) -> Expect:
    known = {str(label): float(score) for label, score in zip(labels, scores, strict=True)}
    best = max(known, key=known.__getitem__)
    return {"label": best, "score": known[best], "scores": known}
