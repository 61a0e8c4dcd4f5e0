"""How answers were scored, in figures: confidence per version, and the distribution of scores per label. Never text.

Of each kind of request only the first answers of an interval are looked at (`metrics.MOST_SCORED`), so that a busy device pays nothing.
"""

from collections.abc import Iterator
from typing import NamedTuple

from edge_agent.serving.confidence import confidence_of
from shared.protocol.telemetry import Histogram, Scores, histogram_of
from shared.serving.answer import Entities, Label, Relations, Response, Result

MOST_LABELS = 256
"""Labels of all versions in one interval; what is beyond is counted as `OTHER`."""
MOST_NAME = 64
"""Characters of a label that are kept."""
OTHER = "other"


class Scored(NamedTuple):
    """Of which version's answers, and of which label; no label: how sure the whole answers were."""

    model: str
    version: str
    label: str | None


class ScoreSheet:
    """Owner of the running interval's scores; event loop only."""

    def __init__(self) -> None:
        self._scores: dict[Scored, list[float]] = {}

    def see(self, response: Response) -> None:
        """One answer."""
        confidence = confidence_of(response.results)
        if confidence is None:
            return
        self._add(Scored(response.model, response.version, None), confidence)
        for result in response.results:
            for label, score in _labelled(result):
                self._add(Scored(response.model, response.version, label[:MOST_NAME]), score)

    def take(self) -> tuple[dict[tuple[str, ...], Histogram], tuple[Scores, ...]]:
        """Confidence by model and version, and scores by label, since the last call."""
        scores, self._scores = self._scores, {}
        counted = {key: histogram_of(each) for key, each in scores.items()}
        return (
            {(key.model, key.version): each for key, each in counted.items() if key.label is None},
            tuple(
                Scores(model=key.model, version=key.version, label=key.label, scores=each)
                for key, each in counted.items()
                if key.label is not None
            ),
        )

    def _add(self, key: Scored, score: float) -> None:
        if key not in self._scores and key.label is not None and len(self._scores) >= MOST_LABELS:
            key = Scored(OTHER, OTHER, OTHER)
        self._scores.setdefault(key, []).append(score)


def _labelled(result: Result) -> Iterator[tuple[str, float]]:
    """The model's own words for what it found, and how sure it was; no text, no offset."""
    match result:
        case Label():
            yield result.label, result.score
        case Entities():
            for entity in result.entities:
                yield entity.type, entity.score
        case Relations():
            # Types of relations are the caller's words (its schema), so they are not told.
            for relation in result.relations:
                yield OTHER, relation.score
        case _:
            pass
