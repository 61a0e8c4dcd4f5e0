"""Which module opens a folder: the table of supported kinds. What is not in it is refused, with the list."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from cloud_core.importer.hub_files import HubFolder, open_folder
from cloud_core.importer.opened import Opened
from cloud_core.importer.request import ImportRequest
from cloud_core.importer.source import Source
from cloud_core.models.source import SOURCE_FILE
from shared.protocol.errors import Refusal, Refused

_CLASSIFICATIONS = ("text-classification", "sentiment-classification")
_TAGGINGS = ("named-entity-recognition", "token-classification", "part-of-speech")
_EXTRACTIONS = ("siamese-uie",)
_TAGGERS = ("transformer-crf", "token-classification-for-ner", "token-classification", "bert", "structbert")
_FAMILIES = ("bert", "distilbert", "electra", "ernie", "roberta", "xlm-roberta")
"""Encoders of transformers whose answers were compared with transformers' own."""
_WORDPIECES = _FAMILIES[:4]
"""Those whose tokens begin where a word does: others have pieces of nothing but a blank, and no place in the text to tag."""
_DECODERS = ("gpt2", "llama", "qwen2")

STAGED = "staged"
"""Below the work folder: what libraries get to see."""
Opener = Callable[[HubFolder, ImportRequest], Opened]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One row: `name` for people, `matches` by the folder's configurations, `open` loads the libraries it needs."""

    name: str
    matches: Callable[[HubFolder], bool]
    open: Opener
    pickled: bool = False
    """Whether the library that reads the folder wants `pytorch_model.bin`."""


def supported() -> tuple[str, ...]:
    """The names of all kinds of folders, and of the other sources."""
    return (*(kind.name for kind in _kinds()), "a folder with model.json", "an .onnx file with its signature")


def kind_of(folder: HubFolder) -> Kind:
    """The row for a folder.

    Raises:
        Refused: none; lists all.

    """
    for kind in _kinds():
        if kind.matches(folder):
            return kind
    configured = {
        "task": folder.task, "model.type": folder.model_kind, "pipeline.type": folder.pipeline_kind,
        "model_type": folder.family, "architectures": ", ".join(folder.classes) or None,
    }  # fmt: skip
    said = (
        ", ".join(f"{name} {value}" for name, value in configured.items() if value)
        or "no configuration.json, no config.json"
    )
    raise Refused(
        f"no supported kind of model: {said}",
        kind=Refusal.UNSUPPORTED,
        field="source",
        allowed="; ".join(supported()),
    )


def open_source(request: ImportRequest, source: Source, work: Path) -> Opened:
    """The model at `source`, opened; libraries see a copy of what was checked, below `work`.

    Raises:
        Refused: not supported, broken, or with weights that are not there; names what.

    """
    if source.path.is_file():
        from cloud_core.importer.onnx_source import open_onnx  # noqa: PLC0415

        opened = open_onnx(source.path, Path(request.signature) if request.signature else None)
    elif (source.path / SOURCE_FILE).exists():
        from cloud_core.importer.project_source import open_project  # noqa: PLC0415

        opened = open_project(source.path)
    else:
        opened = _open_folder(request, source.path, work / STAGED)
    return replace(opened, about={**source.about, **opened.about})


def _open_folder(request: ImportRequest, path: Path, staged: Path) -> Opened:
    # Loaded here: an .onnx file and a model.json folder need no torch.
    from cloud_core.importer.staging import stage_files, stage_weights  # noqa: PLC0415
    from cloud_core.importer.weights import check_loaded, read_weights  # noqa: PLC0415

    folder = open_folder(stage_files(path, staged))
    if folder.config is not None and folder.config.get("quantization_config"):
        raise Refused(
            "weights that were quantized already",
            kind=Refusal.UNSUPPORTED,
            field="config.json.quantization_config",
            allowed="the model as it was before: variants are made of that",
        )
    kind = kind_of(folder)
    checkpoint = read_weights(path)
    stage_weights(checkpoint, path, staged, pickled=kind.pickled)
    opened = kind.open(folder, request)
    about = {"architecture": opened.architecture, "weights_sha256": checkpoint.sha256}
    if opened.traced is not None:
        unused = check_loaded(opened.traced.module, opened.traced.example, checkpoint)
        if unused:
            about["weights_not_used"] = str(len(unused))
    return replace(opened, about={**about, **opened.about})


def _kinds() -> Iterator[Kind]:
    yield Kind(
        name="SiameseUIE information extraction (ModelScope)",
        matches=lambda folder: folder.task in _EXTRACTIONS and folder.model_kind == "bert",
        open=_siamese_uie,
        pickled=True,
    )
    yield Kind(
        name="text classification by structbert or bert (ModelScope)",
        matches=lambda folder: (
            folder.task in _CLASSIFICATIONS
            and folder.model_kind in ("text-classification", "structbert", "bert")
            and folder.pipeline_kind is not None
        ),
        open=_classification,
        pickled=True,
    )
    yield Kind(
        name="named entities and other tags by transformer-crf (RaNER), bert or structbert (ModelScope)",
        matches=lambda folder: (
            folder.task in _TAGGINGS and folder.model_kind in _TAGGERS and folder.pipeline_kind is not None
        ),
        open=_tagging,
        pickled=True,
    )
    yield Kind(
        name="sentence embedding by bert, such as GTE (ModelScope)",
        matches=lambda folder: (
            folder.task == "sentence-embedding" and folder.model_kind == "bert" and folder.pipeline_kind is not None
        ),
        open=_embedding,
        pickled=True,
    )
    yield Kind(
        name="sentence-transformers folder (modules.json) over " + ", ".join(_FAMILIES),
        matches=lambda folder: folder.has("modules.json") and folder.family in _FAMILIES,
        open=_sentence_transformers,
    )
    yield Kind(
        name="transformers' …ForSequenceClassification of " + ", ".join(_FAMILIES),
        matches=lambda folder: folder.family in _FAMILIES and _is_a(folder, "ForSequenceClassification"),
        open=_transformers_classification,
    )
    yield Kind(
        name="transformers' …ForTokenClassification of " + ", ".join(_WORDPIECES),
        matches=lambda folder: folder.family in _WORDPIECES and _is_a(folder, "ForTokenClassification"),
        open=_transformers_tagging,
    )
    yield Kind(
        name="transformers' decoders with a KV cache: " + ", ".join(_DECODERS),
        matches=lambda folder: folder.family in _DECODERS and _is_a(folder, "ForCausalLM", "LMHeadModel"),
        open=_causal_lm,
    )


def _is_a(folder: HubFolder, *endings: str) -> bool:
    return len(folder.classes) == 1 and folder.classes[0].endswith(endings)


def _siamese_uie(folder: HubFolder, request: ImportRequest) -> Opened:
    from cloud_core.importer.architectures.siamese_uie import open_siamese_uie  # noqa: PLC0415

    return open_siamese_uie(folder.path, request.schema)


def _causal_lm(folder: HubFolder, request: ImportRequest) -> Opened:  # noqa: ARG001
    from cloud_core.importer.architectures.causal_lm import open_causal_lm  # noqa: PLC0415

    return open_causal_lm(folder.path)


def _classification(folder: HubFolder, request: ImportRequest) -> Opened:  # noqa: ARG001
    from cloud_core.importer.architectures.text_classification import open_modelscope  # noqa: PLC0415

    return open_modelscope(folder)


def _transformers_classification(folder: HubFolder, request: ImportRequest) -> Opened:  # noqa: ARG001
    from cloud_core.importer.architectures.text_classification import open_transformers  # noqa: PLC0415

    return open_transformers(folder)


def _tagging(folder: HubFolder, request: ImportRequest) -> Opened:  # noqa: ARG001
    from cloud_core.importer.architectures.token_classification import open_modelscope  # noqa: PLC0415

    return open_modelscope(folder)


def _transformers_tagging(folder: HubFolder, request: ImportRequest) -> Opened:  # noqa: ARG001
    from cloud_core.importer.architectures.token_classification import open_transformers  # noqa: PLC0415

    return open_transformers(folder)


def _embedding(folder: HubFolder, request: ImportRequest) -> Opened:  # noqa: ARG001
    from cloud_core.importer.architectures.sentence_embedding import open_modelscope  # noqa: PLC0415

    return open_modelscope(folder)


def _sentence_transformers(folder: HubFolder, request: ImportRequest) -> Opened:  # noqa: ARG001
    from cloud_core.importer.architectures.sentence_embedding import open_sentence_transformers  # noqa: PLC0415

    return open_sentence_transformers(folder)
