"""Which task a bundle's manifest asks for."""

from collections.abc import Callable
from pathlib import Path

from shared.bundle.manifest import Manifest, TaskKind
from shared.protocol.errors import Corrupt
from shared.serving.tasks.crf import read_crf
from shared.serving.tasks.encoding import encoder_for
from shared.serving.tasks.relation_extraction import RelationExtraction
from shared.serving.tasks.task import Task
from shared.serving.tasks.tensor import TensorTask
from shared.serving.tasks.text_classification import TextClassification
from shared.serving.tasks.text_embedding import TextEmbedding
from shared.serving.tasks.text_generation import TextGeneration
from shared.serving.tasks.token_classification import TokenClassification
from shared.serving.tasks.tokenizer_file import read_tokenizer

Tasks = Callable[[Manifest, Path], Task]
"""Makes the task of a bundle in a folder."""


def task_for(manifest: Manifest, folder: Path) -> Task:
    """The task of a bundle installed in `folder`; reads its tokenizer and what else the task needs.

    Raises:
        Corrupt: a file of the bundle cannot be read, or its manifest says too little.

    """
    match manifest.task:
        case TaskKind.TENSOR:
            return TensorTask(manifest.inputs)
        case TaskKind.TEXT_CLASSIFICATION:
            return TextClassification(encoder_for(manifest, folder), manifest.labels)
        case TaskKind.TOKEN_CLASSIFICATION:
            name = manifest.processing.crf
            crf = read_crf(folder / name, len(manifest.labels)) if name is not None else None
            encoder, processing = encoder_for(manifest, folder), manifest.processing
            return TokenClassification(
                encoder, manifest.labels, crf, char_level=processing.char_level, overlap=processing.overlap
            )
        case TaskKind.TEXT_EMBEDDING:
            return TextEmbedding(encoder_for(manifest, folder), manifest.processing)
        case TaskKind.TEXT_GENERATION:
            return TextGeneration(read_tokenizer(manifest, folder), manifest.processing)
        case TaskKind.RELATION_EXTRACTION:
            extraction = manifest.processing.extraction
            if extraction is None:
                raise Corrupt(f"{manifest.name}@{manifest.version} extracts, and its manifest does not say how")
            return RelationExtraction(encoder_for(manifest, folder), extraction)
