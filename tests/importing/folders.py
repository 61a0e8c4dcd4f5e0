"""Small model folders in the exact forms of the hubs: seeded random weights, scaled so that scores spread."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from tests.importing.encoder_weights import Drawn, Shape, Weights, bert, texts_told_apart, told_apart
from tests.importing.vocabulary import vocabulary

SENTIMENTS = ("负面", "正面")
TOPICS = (
    "体育",
    "娱乐",
    "家居",
    "彩票",
    "房产",
    "教育",
    "时尚",
    "时政",
    "星座",
    "游戏",
    "社会",
    "科技",
    "股票",
    "财经",
)
TAGS = ("O", *(f"{place}-{kind}" for kind in ("PER", "LOC", "ORG") for place in "BIES"))
BIO = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-ORG", "I-ORG")


def write_json(path: Path, value: object) -> None:
    """`value` as a hub would write it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2), encoding="utf-8")


def started(folder: Path, *, cased: bool = False, tokenizer: Mapping[str, object] | None = None) -> Shape:
    """The folder with its vocabulary and tokenizer settings, and the sizes of an encoder over it."""
    tokens = vocabulary(cased=cased)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    settings = {**({"do_lower_case": False} if cased else {}), **(tokenizer or {})}
    if settings:
        write_json(folder / "tokenizer_config.json", settings)
    return Shape(vocabulary=len(tokens))


def save(folder: Path, weights: Weights, *, safe: bool = False) -> None:
    """The weights as `model.safetensors` or as the pickle that hubs still have."""
    if safe:
        safetensors.torch.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    else:
        torch.save(weights, folder / "pytorch_model.bin")


def numbered(labels: Sequence[str]) -> dict[str, int]:
    """label2id."""
    return {label: place for place, label in enumerate(labels)}


def sentiment(
    folder: Path,
    *,
    labels: Sequence[str] = SENTIMENTS,
    backbone: str = "structbert",
    cased: bool = False,
    seed: int = 7,
    tokenizer: Mapping[str, object] | None = None,
    **preprocessor: object,
) -> Path:
    """Text classification in the hub's own form: backbone and head in `configuration.json`."""
    shape, drawn = started(folder, cased=cased, tokenizer=tokenizer), Drawn(seed)
    sizes = shape.config()
    head = {"type": "text-classification", "hidden_dropout_prob": 0.1, "hidden_size": shape.hidden}
    configuration = {
        "framework": "pytorch",
        "task": "text-classification",
        "preprocessor": {"type": "sen-cls-tokenizer", "first_sequence": "sentence", **preprocessor},
        "model": {
            "type": "text-classification",
            "backbone": {"type": backbone, "prefix": "encoder", **sizes},
            "head": head,
        },
        "pipeline": {"type": "sentiment-classification"},
    }
    write_json(folder / "configuration.json", configuration)
    write_json(folder / "config.json", {"model_type": backbone, **sizes})
    write_json(folder / "label_mapping.json", numbered(labels))
    encoder = bert(shape, drawn, prefix="encoder.")
    save(
        folder,
        encoder
        | _classifier(folder, encoder, shape, drawn, name="head.classifier", prefix="encoder.", classes=len(labels)),
    )
    return folder


def classification(
    folder: Path,
    *,
    kind: str = "structbert",
    labels: Sequence[str] = SENTIMENTS,
    prefix: str | None = None,
    cased: bool = False,
    seed: int = 7,
    **preprocessor: object,
) -> Path:
    """Text classification by model type alone (`structbert` or `bert`), sizes in `config.json`."""
    shape, drawn = started(folder, cased=cased), Drawn(seed)
    configuration = {
        "framework": "pytorch",
        "task": "text-classification",
        "preprocessor": {"type": "sen-cls-tokenizer", "first_sequence": "sentence", **preprocessor},
        "model": {"type": kind},
        "pipeline": {"type": "text-classification"},
    }
    if kind == "bert":
        configuration["model"] = {"type": "bert", **shape.config()}
    write_json(folder / "configuration.json", configuration)
    write_json(folder / "config.json", shape.config(model_type=kind))
    write_json(folder / "label_mapping.json", numbered(labels))
    own, head = ("bert.", "classifier") if kind == "structbert" else ("bert.", "head.classifier")
    encoder = bert(shape, drawn, prefix=own if prefix is None else prefix)
    save(
        folder,
        encoder | _classifier(folder, encoder, shape, drawn, name=head, prefix=prefix or own, classes=len(labels)),
    )
    return folder


def _classifier(folder: Path, encoder: Weights, shape: Shape, drawn: Drawn, **head: Any) -> Weights:
    tokens = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")
    return texts_told_apart(encoder, shape, drawn, **head, tokens=tokens)


def raner(
    folder: Path,
    *,
    form: str = "backbone",
    tags: Sequence[str] = TAGS,
    words: bool = True,
    cased: bool = False,
    fast: bool = False,
    seed: int = 11,
    **preprocessor: object,
) -> Path:
    """Named entities by transformer and CRF; `form` is `backbone` (hub) or `bare`; `words` the character-level mode."""
    shape = started(folder, cased=cased, tokenizer={"use_fast": True} if fast else None)
    drawn, sizes = Drawn(seed), shape.config()
    model: dict[str, object] = {"type": "transformer-crf"}
    if form == "backbone":
        model["backbone"] = {"type": "bert", **sizes}
        head = {"type": "transformer-crf", "hidden_size": shape.hidden, "hidden_dropout_prob": 0.1}
        model |= {"head": {**head, "num_labels": len(tags)}, "num_labels": len(tags)}
    configuration = {
        "framework": "pytorch",
        "task": "named-entity-recognition",
        "model": model,
        "preprocessor": {
            "type": "sequence-labeling-tokenizer",
            "label2id": numbered(tags),
            "is_split_into_words": words,
            **preprocessor,
        },
        "pipeline": {"type": "named-entity-recognition"},
    }
    write_json(folder / "configuration.json", configuration)
    write_json(folder / "config.json", {"model_type": "bert", **sizes})
    chain = {
        "head.crf.start_transitions": drawn.normal(len(tags), scale=0.5),
        "head.crf.end_transitions": drawn.normal(len(tags), scale=0.5),
        "head.crf.transitions": drawn.normal(len(tags), len(tags), scale=0.5),
    }
    encoder = bert(shape, drawn, prefix="encoder.", pooler=False)
    linear = told_apart(encoder, shape, drawn, "head.linear", prefix="encoder.", classes=len(tags))
    save(folder, encoder | linear | chain)
    return folder


def softmax_ner(
    folder: Path,
    *,
    tags: Sequence[str] = TAGS,
    words: bool = True,
    fast: bool = False,
    cased: bool = False,
    seed: int = 13,
) -> Path:
    """Named entities without a CRF, in the hub's form."""
    shape = started(folder, cased=cased, tokenizer={"use_fast": True} if fast else None)
    drawn, sizes = Drawn(seed), shape.config()
    head = {"type": "token-classification", "hidden_size": shape.hidden, "hidden_dropout_prob": 0.1}
    configuration = {
        "framework": "pytorch",
        "task": "named-entity-recognition",
        "model": {
            "type": "token-classification-for-ner",
            "backbone": {"type": "bert", **sizes},
            "head": {**head, "num_labels": len(tags)},
            "num_labels": len(tags),
        },
        "preprocessor": {
            "type": "sequence-labeling-tokenizer",
            "label2id": numbered(tags),
            "is_split_into_words": words,
        },
        "pipeline": {"type": "named-entity-recognition"},
    }
    write_json(folder / "configuration.json", configuration)
    write_json(folder / "config.json", {"model_type": "bert", **sizes})
    encoder = bert(shape, drawn, prefix="encoder.", pooler=False)
    save(folder, encoder | told_apart(encoder, shape, drawn, "head.classifier", prefix="encoder.", classes=len(tags)))
    return folder


def gte(
    folder: Path,
    *,
    pooler: str | None = None,
    normalize: bool | None = None,
    cased: bool = False,
    safe: bool = False,
    seed: int = 17,
    **preprocessor: object,
) -> Path:
    """Sentence embedding in the hub's form; `pooler` and `normalize` only where they are given."""
    shape, drawn = replace(started(folder, cased=cased), layers=3), Drawn(seed)
    model: dict[str, object] = {"type": "bert"}
    if pooler is not None:
        model["emb_pooler_type"] = pooler
    if normalize is not None:
        model["normalize"] = normalize
    configuration = {
        "framework": "pytorch",
        "task": "sentence-embedding",
        "model": model,
        "preprocessor": {"type": "sentence-embedding", **preprocessor},
        "pipeline": {"type": "sentence-embedding"},
    }
    write_json(folder / "configuration.json", configuration)
    write_json(folder / "config.json", shape.config(model_type="bert"))
    save(folder, bert(shape, drawn), safe=safe)
    return folder
