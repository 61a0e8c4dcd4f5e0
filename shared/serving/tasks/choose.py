"""Which task a bundle's manifest asks for."""

from pathlib import Path

from shared.bundle.manifest import Manifest, TaskKind
from shared.protocol.errors import Refusal, Refused
from shared.serving.tasks.crf import read_crf
from shared.serving.tasks.encoding import encoder_for
from shared.serving.tasks.task import Task
from shared.serving.tasks.tensor import TensorTask
from shared.serving.tasks.text_classification import TextClassification
from shared.serving.tasks.text_embedding import TextEmbedding
from shared.serving.tasks.token_classification import TokenClassification


def task_for(manifest: Manifest, folder: Path) -> Task:
    """The task of a bundle installed in `folder`; reads its tokenizer and what else the task needs.

    Raises:
        Corrupt: a file of the bundle cannot be read.
        Refused: a task this build cannot do.

    """
    match manifest.task:
        case TaskKind.TENSOR:
            return TensorTask(manifest.inputs)
        case TaskKind.TEXT_CLASSIFICATION:
            return TextClassification(encoder_for(manifest, folder), manifest.labels)
        case TaskKind.TOKEN_CLASSIFICATION:
            name = manifest.processing.crf
            crf = read_crf(folder / name, len(manifest.labels)) if name is not None else None
            encoder = encoder_for(manifest, folder)
            return TokenClassification(encoder, manifest.labels, crf, char_level=manifest.processing.char_level)
        case TaskKind.TEXT_EMBEDDING:
            return TextEmbedding(encoder_for(manifest, folder), manifest.processing)
        case _:
            allowed = ", ".join(kind.value for kind in TaskKind if kind is not TaskKind.TEXT_GENERATION)
            raise Refused(
                "no task of that kind",
                kind=Refusal.UNSUPPORTED,
                field="task",
                value=manifest.task.value,
                allowed=allowed,
            )
