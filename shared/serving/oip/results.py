"""Typed results as named tensors and back: what an OIP client sees of each task.

| task | outputs |
|---|---|
| text-classification | `label` BYTES[n], `score` FP32[n], `scores` FP32[n, L]; parameter `labels`, a JSON list |
| token-classification | `entities` BYTES[n], a JSON list each |
| relation-extraction | `relations` BYTES[n], a JSON list each |
| text-embedding | `embedding` FP32[n, d]; parameter `tokens`, a JSON list |
| text-generation | `text` BYTES[n]; parameters `tokens`, `prompt_tokens` and `finish`, JSON lists |
| tensor | the program's own |

`truncated` BOOL[n] comes with them where any text was cut.
"""

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from shared.bundle.manifest import TaskKind, TensorSpec
from shared.protocol.errors import Corrupt
from shared.serving.answer import (
    Array,
    Embedding,
    Entities,
    Entity,
    Label,
    Relation,
    Relations,
    Result,
    Tensors,
    Text,
    float32,
)
from shared.serving.catalog import Listed

Parameters = dict[str, object]
_encode = msgspec.json.Encoder().encode
_entities = msgspec.json.Decoder(tuple[Entity, ...])
_relations = msgspec.json.Decoder(tuple[Relation, ...])

TEXT_INPUT = TensorSpec(name="text", datatype="BYTES", shape=(-1,))
_OUTPUTS: dict[TaskKind, tuple[TensorSpec, ...]] = {
    TaskKind.TEXT_CLASSIFICATION: (
        TensorSpec(name="label", datatype="BYTES", shape=(-1,)),
        TensorSpec(name="score", datatype="FP32", shape=(-1,)),
        TensorSpec(name="scores", datatype="FP32", shape=(-1, -1)),
    ),
    TaskKind.TOKEN_CLASSIFICATION: (TensorSpec(name="entities", datatype="BYTES", shape=(-1,)),),
    TaskKind.RELATION_EXTRACTION: (TensorSpec(name="relations", datatype="BYTES", shape=(-1,)),),
    TaskKind.TEXT_EMBEDDING: (TensorSpec(name="embedding", datatype="FP32", shape=(-1, -1)),),
    TaskKind.TEXT_GENERATION: (TensorSpec(name="text", datatype="BYTES", shape=(-1,)),),
}


def inputs_of(model: Listed) -> tuple[TensorSpec, ...]:
    """What an OIP client sends."""
    return (TEXT_INPUT,) if model.is_text else model.inputs


def outputs_of(model: Listed) -> tuple[TensorSpec, ...]:
    """What an OIP client gets."""
    return _OUTPUTS.get(model.task, model.outputs)


def tensors_of(results: Sequence[Result]) -> tuple[dict[str, Array], Parameters]:
    """Named arrays and response parameters of results of one kind."""
    first = results[0]
    parameters: Parameters = {}
    arrays: dict[str, Array] = {}
    if isinstance(first, Tensors):
        return dict(first.outputs), {}
    if isinstance(first, Label):
        labels = [result for result in results if isinstance(result, Label)]
        arrays["label"] = _objects([result.label for result in labels])
        arrays["score"] = float32([result.score for result in labels])
        arrays["scores"] = float32([list(result.scores.values()) for result in labels])
        parameters["labels"] = _encode(list(first.scores)).decode()
    elif isinstance(first, Entities):
        found = [_encode(result.entities).decode() for result in results if isinstance(result, Entities)]
        arrays["entities"] = _objects(found)
    elif isinstance(first, Relations):
        related = [_encode(result.relations).decode() for result in results if isinstance(result, Relations)]
        arrays["relations"] = _objects(related)
    elif isinstance(first, Embedding):
        vectors = [result for result in results if isinstance(result, Embedding)]
        arrays["embedding"] = np.stack([result.embedding for result in vectors])
        parameters["tokens"] = _encode([result.tokens for result in vectors]).decode()
    else:
        texts = [result for result in results if isinstance(result, Text)]
        arrays["text"] = _objects([result.text for result in texts])
        for name in ("tokens", "prompt_tokens", "finish"):
            parameters[name] = _encode([getattr(result, name) for result in texts]).decode()
    if any(result.truncated for result in results if not isinstance(result, Tensors)):
        cut = [not isinstance(result, Tensors) and result.truncated for result in results]
        arrays["truncated"] = np.asarray(cut, dtype=np.bool_)
    return arrays, parameters


def results_of(task: str, arrays: Mapping[str, Array], parameters: Mapping[str, object]) -> tuple[Result, ...]:
    """The typed results an OIP response holds.

    Raises:
        Corrupt: outputs are missing, or are not what the task gives.

    """
    try:
        return _results_of(task, arrays, parameters)
    except (KeyError, IndexError, ValueError, TypeError, msgspec.DecodeError) as error:
        raise Corrupt(f"the answer is not that of a {task} model: {type(error).__name__}: {error}") from error


def _results_of(task: str, arrays: Mapping[str, Array], parameters: Mapping[str, object]) -> tuple[Result, ...]:
    cut = arrays["truncated"].ravel().tolist() if "truncated" in arrays else None

    def truncated(i: int) -> bool:
        return bool(cut[i]) if cut is not None else False

    match task:
        case TaskKind.TEXT_CLASSIFICATION:
            labels = msgspec.json.decode(str(parameters["labels"]), type=list[str])
            rows = zip(
                _texts(arrays["label"]), arrays["score"].ravel().tolist(), arrays["scores"].tolist(), strict=True
            )
            return tuple(
                Label(label=label, score=score, scores=dict(zip(labels, scores, strict=True)), truncated=truncated(i))
                for i, (label, score, scores) in enumerate(rows)
            )
        case TaskKind.TOKEN_CLASSIFICATION:
            texts = _texts(arrays["entities"])
            return tuple(
                Entities(entities=_entities.decode(text), truncated=truncated(i)) for i, text in enumerate(texts)
            )
        case TaskKind.RELATION_EXTRACTION:
            return tuple(
                Relations(relations=_relations.decode(text), truncated=truncated(i))
                for i, text in enumerate(_texts(arrays["relations"]))
            )
        case TaskKind.TEXT_EMBEDDING:
            vectors = float32(arrays["embedding"])
            counts = msgspec.json.decode(str(parameters.get("tokens", "[]")), type=list[int]) or [0] * len(vectors)
            return tuple(
                Embedding(embedding=vectors[i], tokens=counts[i], truncated=truncated(i)) for i in range(len(vectors))
            )
        case TaskKind.TEXT_GENERATION:
            tokens = msgspec.json.decode(str(parameters["tokens"]), type=list[int])
            prompts = msgspec.json.decode(str(parameters["prompt_tokens"]), type=list[int])
            finish = msgspec.json.decode(str(parameters["finish"]), type=list[str | None])
            return tuple(
                Text(text=text, tokens=tokens[i], prompt_tokens=prompts[i], finish=finish[i], truncated=truncated(i))
                for i, text in enumerate(_texts(arrays["text"]))
            )
        case _:
            return (Tensors(outputs=dict(arrays)),)


def _objects(values: Sequence[str]) -> Array:
    array = np.empty(len(values), dtype=np.object_)
    array[:] = values
    return array


def _texts(array: Array) -> list[str]:
    return [value.decode() if isinstance(value, bytes) else str(value) for value in array.ravel().tolist()]
