"""Score the shipped sentiment and NER models on hand-written sentences that no training or tuning has seen.

    python -m examples.score_demo_models [--variant cpu-int8] [--sentiment FILE] [--ner FILE]

It runs the released bundles through the same engine that answers on an edge. Sentiment is accuracy; NER is F1 over whole
entities (type, start and end all right). The default files are the held-out sets, scored once per release for the cards.
"""

import argparse
import asyncio
import json
import tempfile
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry

from cloud_core.models.publish import build_bundle
from cloud_core.models.shipped import shipped_models
from shared.bundle.install import install
from shared.bundle.manifest import digest_of
from shared.bundle.store import ChunkStore
from shared.io.clock import SystemClock
from shared.serving.answer import Entities, Label, Request, Result
from shared.serving.engine import Engine
from shared.serving.metrics import EngineMetrics

HANDWRITTEN = Path(__file__).parent / "shipped_models" / "handwritten"
TENANT = "default"


def read_lines(path: Path) -> list[dict[str, object]]:
    """The JSON objects of a JSON-lines file."""
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


async def load_shipped(engine: Engine, name: str, variant: str, folder: Path) -> None:
    """Publish, install and load a shipped model, as the platform does, but in one process."""
    source = next(path for path in shipped_models() if path.name == name)
    store = ChunkStore(folder / "chunks")
    manifest, data = build_bundle(source, store)
    bundle = install(data, variant, store, folder / "bundles")
    await engine.load(TENANT, manifest, digest_of(data), bundle, variant)


async def answers(engine: Engine, model: str, texts: list[str]) -> list[Result]:
    """One result per text, asked one by one as applications do."""
    engine.activate(TENANT, dict(engine.active(TENANT)) | {model: "1.0.0"})
    return [
        (await engine.answer(Request(id=str(i), tenant=TENANT, model=model, texts=(text,)))).results[0]
        for i, text in enumerate(texts)
    ]


def sentiment_accuracy(rows: list[dict[str, object]], results: list[Result]) -> float:
    """Share of texts whose label is right."""
    right = sum(isinstance(r, Label) and r.label == row["label"] for row, r in zip(rows, results, strict=True))
    return right / len(rows)


def entity_scores(rows: list[dict[str, object]], results: list[Result]) -> dict[str, float]:
    """Precision, recall and F1 over whole entities, in all and by type."""
    found: list[tuple[int, str, int, int]] = []
    wanted: list[tuple[int, str, int, int]] = []
    for i, (row, result) in enumerate(zip(rows, results, strict=True)):
        assert isinstance(result, Entities)
        found += [(i, e.type, e.start, e.end) for e in result.entities]
        wanted += [(i, e["type"], e["start"], e["end"]) for e in row["entities"]]  # type: ignore[attr-defined]
    scores = {}
    for kind in (None, "PER", "LOC", "ORG"):
        f = {e for e in found if kind in (None, e[1])}
        w = {e for e in wanted if kind in (None, e[1])}
        right = len(f & w)
        precision, recall = right / max(1, len(f)), right / max(1, len(w))
        f1 = 2 * precision * recall / max(1e-9, precision + recall)
        scores |= {f"f1_{kind}": f1} if kind else {"precision": precision, "recall": recall, "f1": f1}
    return scores


async def score(variant: str, sentiment: Path, ner: Path) -> dict[str, float]:
    """Both scores of one variant."""
    engine = Engine(clock=SystemClock(), log=structlog.get_logger(), metrics=EngineMetrics(CollectorRegistry()))
    sentiment_rows, ner_rows = read_lines(sentiment), read_lines(ner)
    with tempfile.TemporaryDirectory() as folder:
        for name in ("sentiment-zh", "ner-zh"):
            await load_shipped(engine, name, variant, Path(folder))
        labels = await answers(engine, "sentiment-zh", [str(row["text"]) for row in sentiment_rows])
        entities = await answers(engine, "ner-zh", [str(row["text"]) for row in ner_rows])
    await engine.close()
    return {"accuracy": sentiment_accuracy(sentiment_rows, labels)} | entity_scores(ner_rows, entities)


def main() -> None:
    """Print both scores of both variants, or of the one asked for."""
    parser = argparse.ArgumentParser(description="Score the shipped models on hand-written sentences.")
    parser.add_argument("--variant", choices=("cpu-int8", "cpu-fp32"))
    parser.add_argument("--sentiment", type=Path, default=HANDWRITTEN / "sentiment.jsonl")
    parser.add_argument("--ner", type=Path, default=HANDWRITTEN / "ner.jsonl")
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    for variant in [arguments.variant] if arguments.variant else ["cpu-int8", "cpu-fp32"]:
        scores = asyncio.run(score(variant, arguments.sentiment, arguments.ner))
        print(f"{variant}: sentiment accuracy {scores['accuracy']:.3f}; NER entity F1 {scores['f1']:.3f}", end=" ")
        print(f"(precision {scores['precision']:.3f}, recall {scores['recall']:.3f};", end=" ")
        print(f"PER {scores['f1_PER']:.3f}, LOC {scores['f1_LOC']:.3f}, ORG {scores['f1_ORG']:.3f})")


if __name__ == "__main__":
    main()
