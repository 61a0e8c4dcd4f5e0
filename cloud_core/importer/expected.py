"""What a golden set expects, as answers, and answers as what a golden set expects: `expect` is what `/predict` would give."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from shared.serving.answer import Array, Embedding, Entities, Entity, Label, Relation, Relations, Result, Tensors, Text
from shared.serving.versions.golden import GoldenItem


def whole_results(items: Sequence[GoldenItem]) -> list[Result | None]:
    """One answer per item; None for one that expects a part of an answer only, as a person may write it."""
    return [_result(item.expect) for item in items]


def expect_of(result: Result) -> dict[str, object]:
    """A whole answer as an expectation."""
    match result:
        case Label():
            return {"label": result.label, "score": round(result.score, 6), "scores": _rounded(result.scores)}
        case Entities():
            return {"entities": [_found(entity) for entity in result.entities]}
        case Relations():
            return {"relations": [_found(relation) for relation in result.relations]}
        case Embedding():
            norm = float(np.linalg.norm(result.embedding))
            return {"embedding": short(result.embedding), "norm": round(norm, 6)}
        case Text():
            return {"text": result.text}
        case Tensors():
            return {"outputs": {name: short(value) for name, value in result.outputs.items()}}


def short(values: Array) -> Any:
    """Nested lists of an array's values, floats with the seven digits that a float32 has."""
    if values.dtype.kind != "f":
        return values.tolist()
    flat = [float(f"{value:.7g}") for value in values.ravel().tolist()]
    return np.asarray(flat, dtype=np.float64).reshape(values.shape).tolist()


def _found(each: Entity | Relation) -> dict[str, Any]:
    built: dict[str, Any] = msgspec.to_builtins(each)
    return built | {"score": round(each.score, 6)}


def _rounded(scores: Mapping[str, float]) -> dict[str, float]:
    return {label: round(score, 6) for label, score in scores.items()}


def _result(expect: Mapping[str, Any]) -> Result | None:
    try:
        match expect:
            case {"label": label, "score": score, "scores": scores}:
                return Label(
                    label=label, score=float(score), scores={name: float(each) for name, each in scores.items()}
                )
            case {"entities": entities}:
                return Entities(entities=tuple(_entity(each) for each in entities))
            case {"relations": relations}:
                return Relations(relations=msgspec.convert(relations, tuple[Relation, ...]))
            case {"embedding": vector}:
                return Embedding(embedding=np.asarray(vector, dtype=np.float32))
            case {"text": text}:
                return Text(text=str(text), finish="stop")
            case {"outputs": outputs}:
                return Tensors(outputs={name: np.asarray(value) for name, value in outputs.items()})
    except (KeyError, TypeError, ValueError, AttributeError, msgspec.ValidationError):
        # Part of an answer, such as places without scores.
        return None
    return None


def _entity(expect: Mapping[str, Any]) -> Entity:
    return Entity(
        type=expect["type"],
        start=int(expect["start"]),
        end=int(expect["end"]),
        text=str(expect["text"]),
        score=float(expect["score"]),
    )
