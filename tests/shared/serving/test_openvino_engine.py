"""OpenVINO in the engine: the answers of ONNX Runtime, batches of few lengths, lanes, and a reason where it cannot."""

import asyncio
import sys

import numpy as np
import pytest

from shared.bundle.manifest import TaskKind
from shared.protocol.errors import Refused
from shared.protocol.reported import ModelState
from shared.serving.answer import Request
from shared.serving.arrangement import OPENVINO, Arrangement
from shared.serving.oip.models import configuration, metadata
from shared.serving.sessions.open import open_session
from shared.serving.tasks.rounded import STEP
from tests.shared.serving.bundles import MAX_LENGTH, TENANT, bundle, engine

TEXTS = ("好", "王明去北京。", "坏坏坏", "好" * 12, "a b")
TASKS = (TaskKind.TEXT_CLASSIFICATION, TaskKind.TOKEN_CLASSIFICATION, TaskKind.TEXT_EMBEDDING)


async def answers(folder, task, arrangement, texts, **options):
    manifest = bundle(folder, "m", task)
    async with engine(**options) as made:
        await made.load(TENANT, manifest, "d" * 64, folder, "cpu", arrangement=arrangement)
        made.activate(TENANT, {"m": "1.0.0"})
        together = await made.answer(Request(id="1", tenant=TENANT, model="m", texts=texts, deadline=None))
        return together.results


def numbers(result):
    match result:
        case _ if hasattr(result, "embedding"):
            return result.embedding
        case _ if hasattr(result, "scores"):
            return np.array(list(result.scores.values()))
        case _:
            return np.array([(each.start, each.end, each.score) for each in result.entities])


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("lanes", [1, 2])
def test_the_answers_are_those_of_onnxruntime(tmp_path, task, lanes):
    wanted = asyncio.run(answers(tmp_path, task, Arrangement(), TEXTS))
    found = asyncio.run(answers(tmp_path, task, Arrangement(runtime=OPENVINO, lanes=lanes), TEXTS))
    for a, b in zip(wanted, found, strict=True):
        np.testing.assert_allclose(numbers(a), numbers(b), atol=1e-5)


def test_batches_have_few_lengths_and_none_beyond_the_models_own(tmp_path):
    widths = set()

    def spying(path, variant, arrangement):
        session = open_session(path, variant, arrangement)
        run = session.run
        session.run = lambda feeds: widths.update(array.shape[1] for array in feeds.values()) or run(feeds)
        session.sibling = lambda: session
        return session

    texts = tuple("好" * n for n in range(1, MAX_LENGTH - 2))

    async def each():
        manifest = bundle(tmp_path, "m", TaskKind.TEXT_CLASSIFICATION, max_length=MAX_LENGTH - 3)
        async with engine(sessions=spying) as made:
            await made.load(TENANT, manifest, "d" * 64, tmp_path, "cpu", arrangement=Arrangement(runtime=OPENVINO))
            made.activate(TENANT, {"m": "1.0.0"})
            for text in texts[: MAX_LENGTH - 5]:
                await made.answer(Request(id="1", tenant=TENANT, model="m", texts=(text,)))

    asyncio.run(each())
    assert widths == {STEP, MAX_LENGTH - 3}


def test_where_it_is_not_installed_the_version_fails_and_says_why(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)

    async def refused():
        manifest = bundle(tmp_path, "m", TaskKind.TEXT_CLASSIFICATION)
        async with engine() as made:
            with pytest.raises(Refused, match="OpenVINO is not installed"):
                await made.load(TENANT, manifest, "d" * 64, tmp_path, "cpu", arrangement=Arrangement(runtime=OPENVINO))
            (listed,) = made.models(TENANT)
            assert listed.state is ModelState.FAILED
            assert "OpenVINO is not installed" in listed.reason

    asyncio.run(refused())


def test_the_protocol_names_the_runtime(tmp_path):
    async def told(arrangement):
        manifest = bundle(tmp_path, "m", TaskKind.TEXT_CLASSIFICATION)
        async with engine() as made:
            await made.load(TENANT, manifest, "d" * 64, tmp_path, "cpu", arrangement=arrangement)
            (model,) = made.models(TENANT)
            return metadata(model, ["1.0.0"])["platform"], configuration(model)["backend"]

    assert asyncio.run(told(Arrangement())) == ("onnxruntime_onnx", "onnxruntime")
    assert asyncio.run(told(Arrangement(runtime=OPENVINO))) == ("openvino", "openvino")
