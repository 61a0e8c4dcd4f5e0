"""Generated text out of the engine: golden set, pieces, parameters, estimates, and rows that nobody wants any more."""

import asyncio
import contextlib
import json
import threading
from pathlib import Path

import numpy as np
import pytest

from shared.bundle.manifest import TensorSpec
from shared.protocol.errors import Corrupt, Overloaded, Refused
from shared.serving.decide.admission import Limits
from shared.serving.sessions.scripted import ScriptedSession
from tests.shared.serving.bundles import TENANT, engine, until
from tests.shared.serving.decoder import GENERATION, VOCABULARY, decoder_bundle, letters, weights, written
from tests.shared.serving.echo import ask, load

TEXT = written(weights(), "你好", 64)
LETTER = VOCABULARY[3]
CACHE = ("key", "value")


def golden(folder: Path, expected: str):
    folder.mkdir(parents=True, exist_ok=True)
    items = [
        {"text": "你好", "expect": {"text": expected}},
        {"text": "a", "expect": {"text": written(weights(), "a", 64)}},
    ]
    (folder / "golden.json").write_text(json.dumps({"items": items}))
    return decoder_bundle(folder, golden="golden.json")


def test_text_comes_whole_and_in_pieces_and_the_golden_set_is_replayed(tmp_path):
    async def main():
        async with engine() as made:
            with pytest.raises(Corrupt, match="golden set differs"):
                await load(made, tmp_path / "wrong", golden(tmp_path / "wrong", TEXT[:-1]))
            model = await load(made, tmp_path / "right", golden(tmp_path / "right", TEXT))
            (whole,) = (await made.answer(ask("writer", "你好"))).results
            assert (whole.text, whole.tokens, whole.prompt_tokens, whole.finish) == (TEXT, 64, 2, "length")
            pieces = [piece.results[0] async for piece in made.stream(ask("writer", "你好"))]
            assert len(pieces) == 64
            assert "".join(piece.text for piece in pieces) == TEXT
            assert [piece.finish for piece in pieces] == [None] * 63 + ["length"]
            parameters = {"max_tokens": 9, "stop": [TEXT[4]]}
            answers = (await made.answer(ask("writer", "你好", "a", parameters=parameters))).results
            assert answers[0].text == TEXT[: TEXT.index(TEXT[4])]
            with pytest.raises(Refused) as caught:
                await made.answer(ask("writer", "a", "a", parameters={"temperature": -1}))
            assert caught.value.field == "parameters.temperature"
            with pytest.raises(Refused, match=r"texts\[1\]"):
                await made.answer(ask("writer", "a", "a" * 200))
            assert model.cost.observations > 0
            made.activate(TENANT, {"writer": "1.0.0"})
            asked = [ask("writer", "你好", parameters={"max_tokens": most}) for most in (2, 32)]
            assert [made.estimate(request) for request in asked] == [4, 34]

    asyncio.run(main())


class Gated:
    """A program whose rows all write the same letter for ever; one run per permit once it is `shut`."""

    def __init__(self) -> None:
        self.shut = False
        self.permits = threading.Semaphore(0)
        names = ("input_ids", "attention_mask", "position_ids", *(f"past_key_values.0.{each}" for each in CACHE))
        inputs = tuple(TensorSpec(name=name, datatype="FP32", shape=(-1,)) for name in names)
        self.session = ScriptedSession(self.script, inputs=inputs)

    def script(self, feeds):
        if self.shut:
            assert self.permits.acquire(timeout=10)
        rows, total = feeds["attention_mask"].shape
        logits = np.zeros((rows, 1, letters().get_vocab_size()), np.float32)
        logits[:, 0, 3] = 1.0
        present = np.zeros((rows, GENERATION.heads, total, GENERATION.head_size), np.float32)
        return {"logits": logits} | {f"present.0.{each}": present for each in CACHE}

    @property
    def rows(self) -> list[int]:
        return [len(feeds["input_ids"]) for feeds in self.session.runs]

    async def begins(self) -> None:
        assert await asyncio.to_thread(self.session.started.wait, 10)


@contextlib.asynccontextmanager
async def gated(folder: Path, **options):
    """An engine on such a program, warmed, and from then on moved by permits alone."""
    program = Gated()
    async with engine(sessions=lambda path, variant, arrangement: program.session, **options) as made:
        try:
            await load(made, folder, decoder_bundle(folder))
            # The answer is out a moment before the thread that computed it looks for more.
            await until(lambda: made.load_of(TENANT, "writer", "1.0.0").running == 0)
            program.shut = True
            program.session.runs.clear()
            program.session.started.clear()
            yield made, program
        finally:
            program.permits.release(10_000)


def test_a_row_nobody_wants_any_more_is_not_computed_further(tmp_path):
    async def main():
        async with gated(tmp_path) as (made, program):
            # While one is computed, three others gather to a batch.
            first = asyncio.ensure_future(made.answer(ask("writer", "a", parameters={"max_tokens": 1})))
            await program.begins()
            kept = asyncio.ensure_future(made.answer(ask("writer", "a", parameters={"max_tokens": 4})))
            gone = asyncio.ensure_future(made.answer(ask("writer", "b", parameters={"max_tokens": 50})))
            left = made.stream(ask("writer", "c", parameters={"max_tokens": 50}))
            piece = asyncio.ensure_future(anext(left))
            await until(lambda: made.load_of(TENANT, "writer", "1.0.0").queued == 3)
            program.permits.release(2)
            assert (await first).results[0].tokens == 1
            assert (await piece).results[0].text == LETTER
            gone.cancel()
            await left.aclose()
            await asyncio.gather(gone, return_exceptions=True)
            program.permits.release(10)
            (text,) = (await kept).results
            assert (text.text, text.finish) == (LETTER * 4, "length")
            # The run that was under way still has them all; those after it have not.
            assert program.rows == [1, 3, 3, 1, 1]
            assert made.statistics(TENANT, "writer", "1.0.0").fail.count == 2

    asyncio.run(main())


def test_a_request_that_nobody_waits_for_ends_the_whole_computation(tmp_path):
    async def main():
        async with gated(tmp_path) as (made, program):
            left = made.stream(ask("writer", "c", parameters={"max_tokens": 90}))
            program.permits.release(1)
            await anext(left)
            await left.aclose()
            program.permits.release(80)
            await until(lambda: made.load_of(TENANT, "writer", "1.0.0").running == 0)
            assert len(program.rows) <= 3

    asyncio.run(main())


def test_what_may_be_written_counts_against_the_bounds(tmp_path):
    async def main():
        async with gated(tmp_path, limits=Limits(tokens=100)) as (made, program):
            long = asyncio.ensure_future(made.answer(ask("writer", "a", parameters={"max_tokens": 90})))
            await program.begins()
            with pytest.raises(Overloaded) as caught:
                await made.answer(ask("writer", "a", parameters={"max_tokens": 20}))
            assert caught.value.code == "queue-tokens"
            short = asyncio.ensure_future(made.answer(ask("writer", "a", parameters={"max_tokens": 5})))
            program.permits.release(10_000)
            assert [answer.results[0].tokens for answer in await asyncio.gather(long, short)] == [90, 5]

    asyncio.run(main())
