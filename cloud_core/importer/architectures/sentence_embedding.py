"""Sentence embeddings: GTE and its like in ModelScope's form, and folders of sentence-transformers."""

import importlib.util
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from transformers import AutoModel

from cloud_core.importer.architectures import encoder_graph
from cloud_core.importer.architectures.modelscope_pipeline import max_length_of, open_pipeline, tokenizer_of
from cloud_core.importer.architectures.transformers_folder import open_model, token_limit
from cloud_core.importer.hub_files import HubFolder, read_json, read_object
from cloud_core.importer.opened import Expect, Opened, Reference
from cloud_core.importer.tokenizer import FILE, TokenizerFile, tokenizer_file
from shared.bundle.manifest import Processing, TaskKind
from shared.protocol.errors import Refusal, Refused

_POOLINGS = {"cls": "cls", "avg": "mean", "avg_first_last": None, "avg_top2": None}
"""ModelScope's names, and the manifest's for those it has one for: the graph pools in any case."""
_LAYERED = ("avg_first_last", "avg_top2")
_PROMPTS = ("boq", "eoq", "bod", "eod")
_MODULES = ("Transformer", "Pooling", "Normalize")


class _Encoded(torch.nn.Module):
    """ids, mask and types int64 [rows, longest] to vectors [rows, dimension]: ModelScope's model pools and normalizes itself."""

    def __init__(self, model: Any, *, layered: bool) -> None:
        super().__init__()
        self.model = model
        self._layered = layered

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> torch.Tensor:
        vectors: torch.Tensor = self.model.encode(
            input_ids=ids, attention_mask=mask, token_type_ids=types, output_hidden_states=self._layered or None
        )
        return vectors


class _Pooled(torch.nn.Module):
    """ids, mask and types int64 [rows, longest] to vectors [rows, dimension], as sentence-transformers' modules make them."""

    def __init__(self, model: Any, *, pooling: str, normalize: bool) -> None:
        super().__init__()
        self.model = model
        self._typed = "token_type_ids" in inspect.signature(model.forward).parameters
        self._pooling = pooling
        self._normalize = normalize

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> torch.Tensor:
        more = {"token_type_ids": types} if self._typed else {}
        states = self.model(input_ids=ids, attention_mask=mask, **more).last_hidden_state
        vectors: torch.Tensor = states[:, 0]
        if self._pooling == "mean":
            weights = mask.unsqueeze(-1).to(states.dtype)
            vectors = (states * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
        return torch.nn.functional.normalize(vectors, p=2.0, dim=1) if self._normalize else vectors


def open_modelscope(folder: HubFolder) -> Opened:
    """A folder in the form ModelScope's sentence embedding pipeline takes."""
    opened = open_pipeline(folder)
    for name in _PROMPTS:
        if getattr(opened.preprocessor, name, None) is not None:
            raise _unsupported(f"configuration.json.preprocessor.{name}", getattr(opened.preprocessor, name), "none")
    model = opened.model
    layered = model.pooler_type in _LAYERED
    # Without this the pipeline has no layers to pool and fails; the graph asks for them by itself.
    model.config.output_hidden_states = layered or model.config.output_hidden_states

    def reference(texts: Sequence[str]) -> list[Expect]:
        return [expected(opened({"source_sentence": [text]})["text_embedding"][0]) for text in texts]

    return _opened(
        f"{folder.backbone} sentence embedding (ModelScope)",
        _Encoded(model, layered=layered),
        tokenizer=tokenizer_file(tokenizer_of(opened)),
        max_length=encoder_graph.longest(max_length_of(opened), model),
        pooling=_POOLINGS[model.pooler_type],
        normalize=bool(model.normalize),
        reference=reference,
        about={"pooling": str(model.pooler_type)},
    )


def open_sentence_transformers(folder: HubFolder) -> Opened:
    """A folder with `modules.json`: a transformer, a pooling, and maybe a normalization."""
    pooling, normalize = _modules(folder)
    settings = read_object(folder.path / "sentence_bert_config.json") or {}
    if settings.get("do_lower_case"):
        raise _unsupported("sentence_bert_config.json.do_lower_case", True, "false: the tokenizer says it")
    prompts = read_object(folder.path / "config_sentence_transformers.json") or {}
    if prompts.get("default_prompt_name") is not None:
        value = prompts["default_prompt_name"]
        raise _unsupported("config_sentence_transformers.json.default_prompt_name", value, "none")
    model, tokenizer = open_model(folder, AutoModel)
    wanted = settings.get("max_seq_length")
    made = _Pooled(model, pooling=pooling, normalize=normalize)
    limit = encoder_graph.longest(wanted if isinstance(wanted, int) else token_limit(tokenizer), model)
    own = _sentence_transformers(folder)
    answers = own if own is not None else _alone(made, tokenizer, limit)
    return _opened(
        f"{folder.family} sentence embedding (sentence-transformers)",
        made,
        tokenizer=tokenizer_file(tokenizer),
        max_length=limit,
        pooling=pooling,
        normalize=normalize,
        reference=lambda texts: [expected(answers(text)) for text in texts],
        about={"pooling": pooling, "compared_with": "sentence-transformers" if own is not None else "transformers"},
    )


def expected(vector: Any) -> Expect:
    """A whole vector in the golden set's form."""
    values = [float(value) for value in vector]
    return {"embedding": values, "norm": sum(value * value for value in values) ** 0.5}


def _opened(
    architecture: str,
    module: torch.nn.Module,
    *,
    tokenizer: TokenizerFile,
    max_length: int,
    pooling: str | None,
    normalize: bool,
    reference: Reference,
    about: Mapping[str, str],
) -> Opened:
    made = encoder_graph.traced(module, "pooled", per_token=False)
    encoder_graph.check_tokenizer(tokenizer, module)
    return Opened(
        architecture=architecture,
        task=TaskKind.TEXT_EMBEDDING,
        processing=Processing(
            tokenizer=FILE,
            max_length=max_length,
            lowercase=tokenizer.lowercase,
            nfc=tokenizer.nfc,
            pooling=pooling,
            normalize=normalize,
        ),
        dimension=encoder_graph.width(made),
        traced=made,
        reference=reference,
        files={FILE: tokenizer.data},
        about=about,
    )


def _modules(folder: HubFolder) -> tuple[str, bool]:
    """Pooling, and whether vectors are normalized.

    Raises:
        Refused: other modules than these, or another pooling; names it.

    """
    listed = read_json(folder.path / "modules.json")
    entries = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    kinds = [str(entry.get("type", "")).rpartition(".")[2] for entry in entries]
    if kinds not in (list(_MODULES), list(_MODULES[:2])):
        raise _unsupported("modules.json", kinds, " and ".join((", ".join(_MODULES[:2]), _MODULES[2])))
    if entries[0].get("path") not in ("", None):
        raise _unsupported("modules.json[0].path", entries[0].get("path"), "the folder itself")
    settings = read_object(folder.path / str(entries[1].get("path")) / "config.json") or {}
    modes = [name for name, value in settings.items() if name.startswith("pooling_mode_") and value is True]
    known = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
    if len(modes) != 1 or modes[0] not in known:
        raise _unsupported(f"{entries[1].get('path')}/config.json", modes, f"one of {', '.join(known)}")
    return known[modes[0]], len(kinds) == len(_MODULES)


def _sentence_transformers(folder: HubFolder) -> Callable[[str], Any] | None:
    """Its own answers, where it is installed."""
    if importlib.util.find_spec("sentence_transformers") is None:
        return None
    from sentence_transformers import SentenceTransformer  # noqa: PLC0415 - not part of the import extra

    own = SentenceTransformer(str(folder.path), device="cpu", local_files_only=True)
    return lambda text: own.encode([text], show_progress_bar=False)[0]


def _alone(module: torch.nn.Module, tokenizer: Any, limit: int) -> Callable[[str], Any]:
    def vector(text: str) -> Any:
        encoded = tokenizer(text, truncation=True, max_length=limit, return_tensors="pt")
        ids, mask = encoded["input_ids"], encoded["attention_mask"]
        with torch.no_grad():
            return module(ids, mask, encoded.get("token_type_ids", torch.zeros_like(ids)))[0].numpy()

    return vector


def _unsupported(field: str, value: object, allowed: str) -> Refused:
    return Refused("not supported", kind=Refusal.UNSUPPORTED, field=field, value=value, allowed=allowed)
