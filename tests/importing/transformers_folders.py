"""Small folders as transformers and sentence-transformers save them: seeded random weights, scaled so that scores spread."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import ByteLevelBPETokenizer, SentencePieceUnigramTokenizer
from tokenizers.processors import TemplateProcessing
from transformers import (
    BertTokenizerFast,
    DistilBertTokenizerFast,
    ElectraTokenizerFast,
    RobertaTokenizerFast,
    XLMRobertaTokenizerFast,
)

from tests.importing.folders import BIO, SENTIMENTS, numbered, write_json
from tests.importing.sentences import CLAUSES
from tests.importing.vocabulary import vocabulary

_WORDPIECE = {
    "bert": BertTokenizerFast,
    "distilbert": DistilBertTokenizerFast,
    "electra": ElectraTokenizerFast,
    "ernie": BertTokenizerFast,
}
_KINDS = {
    "bert": "Bert",
    "distilbert": "DistilBert",
    "electra": "Electra",
    "ernie": "Ernie",
    "roberta": "Roberta",
    "xlm-roberta": "XLMRoberta",
}
_ROBERTAS = ("roberta", "xlm-roberta")
_SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
_SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "embedding_size": 64,
    "dim": 64,
    "n_layers": 2,
    "n_heads": 4,
    "hidden_dim": 128,
}
POSITIONS = 128


def classification(
    folder: Path, *, family: str = "bert", labels: Sequence[str] = SENTIMENTS, safe: bool = True, **config: Any
) -> Path:
    """A `…ForSequenceClassification`."""
    return _saved(folder, family, "ForSequenceClassification", labels, safe=safe, **config)


def tagging(folder: Path, *, family: str = "bert", labels: Sequence[str] = BIO, safe: bool = True) -> Path:
    """A `…ForTokenClassification`."""
    return _saved(folder, family, "ForTokenClassification", labels, safe=safe)


def sentences(
    folder: Path,
    *,
    family: str = "bert",
    pooling: str = "mean_tokens",
    normalize: bool = True,
    max_length: int | None = 64,
    **config: Any,
) -> Path:
    """A folder of sentence-transformers."""
    _saved(folder, family, "Model", (), **config)
    module = "sentence_transformers.models."
    steps = [("", "Transformer"), ("1_Pooling", "Pooling"), *([("2_Normalize", "Normalize")] if normalize else [])]
    listed = [
        {"idx": i, "name": str(i), "path": path, "type": f"{module}{kind}"} for i, (path, kind) in enumerate(steps)
    ]
    (folder / "modules.json").write_text(json.dumps(listed), encoding="utf-8")
    modes = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")
    settings = {f"pooling_mode_{mode}": mode == pooling for mode in modes}
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 64, **settings})
    if normalize:
        (folder / "2_Normalize").mkdir()
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": max_length, "do_lower_case": False})
    return folder


def _saved(folder: Path, family: str, ending: str, labels: Sequence[str], *, safe: bool = True, **config: Any) -> Path:
    tokenizer = _tokenizer(folder, family)
    kind = _KINDS[family]
    named = {"id2label": dict(enumerate(labels)), "label2id": numbered(labels)} if labels else {}
    # RoBERTa counts positions from behind its padding token.
    positions = POSITIONS + (2 if family in _ROBERTAS else 0)
    made = getattr(transformers, f"{kind}Config")(
        vocab_size=len(tokenizer),
        max_position_embeddings=positions,
        pad_token_id=tokenizer.pad_token_id,
        type_vocab_size=1 if family in _ROBERTAS else 2,
        **_SIZES,
        **named,
        **config,
    )
    generator = torch.Generator().manual_seed(23)
    model = getattr(transformers, f"{kind}{ending}")(made).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            scale = 1.0 if "embeddings" in name else 1.5 / math.sqrt(value.shape[-1])
            if "LayerNorm" not in name and "layer_norm" not in name:
                value.copy_(torch.randn(value.shape, generator=generator) * scale)
    model.save_pretrained(folder, safe_serialization=safe)
    tokenizer.save_pretrained(folder)
    return folder


def _tokenizer(folder: Path, family: str) -> Any:
    folder.mkdir(parents=True, exist_ok=True)
    if family == "roberta":
        bpe = ByteLevelBPETokenizer()
        bpe.train_from_iterator(CLAUSES, vocab_size=600, min_frequency=1, special_tokens=_SPECIAL, show_progress=False)
        bpe.save_model(str(folder))
        files = {"vocab_file": str(folder / "vocab.json"), "merges_file": str(folder / "merges.txt")}
        return RobertaTokenizerFast(**files, model_max_length=POSITIONS)
    if family == "xlm-roberta":
        pieces = SentencePieceUnigramTokenizer()
        pieces.train_from_iterator(
            CLAUSES, vocab_size=300, special_tokens=_SPECIAL, unk_token="<unk>", show_progress=False
        )
        pieces.post_processor = TemplateProcessing(
            single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
        )
        pieces.save(str(folder / "tokenizer.json"))
        return XLMRobertaTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), model_max_length=POSITIONS)
    path = folder / "vocab.txt"
    path.write_text("\n".join(vocabulary()) + "\n", encoding="utf-8")
    return _WORDPIECE[family](vocab_file=str(path), model_max_length=POSITIONS)
