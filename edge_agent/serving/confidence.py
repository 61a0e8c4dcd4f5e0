"""How sure an answer is of itself: what a cascade compares with the policy's threshold."""

from collections.abc import Sequence

from shared.serving.answer import Entities, Label, Relations, Result


def confidence_of(results: Sequence[Result]) -> float | None:
    """The least confidence among an answer's results; None where a result has none."""
    scores: list[float] = []
    for result in results:
        match result:
            case Label():
                scores.append(result.score)
            case Entities():
                scores.extend(entity.score for entity in result.entities)
            case Relations():
                scores.extend(relation.score for relation in result.relations)
            case _:
                return None
    return min(scores, default=None)
