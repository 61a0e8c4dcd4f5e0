import asyncio

import numpy as np
import pytest

from shared.bundle.manifest import TaskKind
from shared.protocol.errors import Corrupt, Refusal, Refused, Transient, Unavailable
from shared.protocol.reported import ModelState
from shared.serving.versions.plain_onnx import tried_onnx
from tests.shared.serving.bundles import TENANT, adder, bundle, engine
from tests.shared.serving.echo import ask, load

CLS, NER, EMB = TaskKind.TEXT_CLASSIFICATION, TaskKind.TOKEN_CLASSIFICATION, TaskKind.TEXT_EMBEDDING


def test_all_text_tasks_answer_and_the_golden_set_is_replayed(tmp_path):
    async def main():
        golden = [{"text": "王明去北京", "expect": {"entities": [
            {"type": "PER", "start": 0, "end": 2}, {"type": "LOC", "start": 3, "end": 5}]}}]  # fmt: skip
        async with engine() as made:
            await load(made, tmp_path / "c", bundle(tmp_path / "c", "cls", CLS))
            await load(made, tmp_path / "n", bundle(tmp_path / "n", "ner", NER, golden=golden))
            await load(made, tmp_path / "e", bundle(tmp_path / "e", "emb", EMB, normalize=True))
            made.activate(TENANT, {"cls": "1.0.0", "ner": "1.0.0", "emb": "1.0.0"})
            response = await made.answer(ask("cls", "好", "坏坏"))
            assert [result.label for result in response.results] == ["正面", "负面"]
            assert response.results[0].scores["正面"] == pytest.approx(1 / (1 + np.exp(-4)), abs=1e-6)
            assert (response.variant, response.version, response.task) == ("cpu", "1.0.0", "text-classification")
            (found,) = (await made.answer(ask("ner", "a 王明😀去 北京"))).results
            spans = [(entity.type, entity.start, entity.end, entity.text) for entity in found.entities]
            assert spans == [("PER", 2, 4, "王明"), ("LOC", 7, 9, "北京")]
            assert 0.9 < found.entities[0].score <= 1
            (vector,) = (await made.answer(ask("emb", "好"))).results
            assert np.linalg.norm(vector.embedding) == pytest.approx(1, abs=1e-6)
            assert vector.tokens == 3

    asyncio.run(main())


def test_a_version_whose_golden_set_differs_fails_and_says_why(tmp_path):
    async def main():
        wrong = [{"text": "好", "expect": {"label": "负面", "score": 0.9}}]
        async with engine() as made:
            manifest = bundle(tmp_path, "cls", CLS, golden=wrong)
            with pytest.raises(Corrupt, match="golden set differs"):
                await load(made, tmp_path, manifest)
            (listed,) = made.models(TENANT)
            assert listed.state is ModelState.FAILED
            assert "golden" in listed.reason
            with pytest.raises(Transient) as caught:
                await made.answer(ask("cls", "好"))
            assert caught.value.why is Unavailable.NOT_READY
            await made.unload(TENANT, "cls", "1.0.0")
            assert made.models() == []

    asyncio.run(main())


def test_a_file_that_is_no_program_fails_to_load(tmp_path):
    async def main():
        manifest = bundle(tmp_path, "cls", CLS)
        (tmp_path / "model.onnx").write_bytes(b"not a program")
        async with engine() as made:
            with pytest.raises(Corrupt, match=r"model\.onnx cannot be loaded"):
                await load(made, tmp_path, manifest)
            # The failure is not for ever: the same version may be loaded again once its files are whole.
            bundle(tmp_path, "cls", CLS)
            await load(made, tmp_path, manifest)
            assert made.models(TENANT)[0].state is ModelState.READY

    asyncio.run(main())


def test_refusals_of_texts_name_the_item(tmp_path):
    async def main():
        async with engine() as made:
            await load(made, tmp_path, bundle(tmp_path, "cls", CLS))
            for texts, field, message in (
                (("好", ""), "texts[1]", "empty"),
                (("",), "text", "empty"),
                (("好" * 20,), "text", "the limit is 16"),
                (("好", "好" * 300), "texts[1]", "302 tokens"),
            ):
                with pytest.raises(Refused, match=message) as caught:
                    await made.answer(ask("cls", *texts))
                assert caught.value.kind is Refusal.UNPROCESSABLE
                assert caught.value.field == field
            with pytest.raises(Refused) as caught:
                await made.answer(ask("cls", "好", parameters={"truncate": "yes"}))
            assert caught.value.field == "parameters.truncate"
            (cut,) = (await made.answer(ask("cls", "好" * 20, parameters={"truncate": True}))).results
            assert cut.truncated
            assert (await made.answer(ask("cls", "好\ud83d"))).results[0].label == "正面"

    asyncio.run(main())


def test_unknown_models_and_versions_name_those_there_are(tmp_path):
    async def main():
        async with engine() as made:
            with pytest.raises(Refused, match="no model is loaded"):
                await made.answer(ask("cls", "好"))
            await load(made, tmp_path, bundle(tmp_path, "cls", CLS))
            for request in (ask("other", "好"), ask("cls", "好", version="2.0.0"), ask("cls", "好", tenant="b")):
                with pytest.raises(Refused) as caught:
                    await made.answer(request)
                assert caught.value.kind is Refusal.NOT_FOUND
            assert "cls" in caught.value.message or "no model" in caught.value.message

    asyncio.run(main())


def test_activation_swaps_what_unversioned_requests_get(tmp_path):
    async def main():
        async with engine() as made:
            for version in ("1.9.0", "1.10.0"):
                folder = tmp_path / version
                await load(made, folder, bundle(folder, "cls", CLS, version=version))
            assert (await made.answer(ask("cls", "好"))).version == "1.10.0"
            made.activate(TENANT, {"cls": "1.9.0"})
            assert (await made.answer(ask("cls", "好"))).version == "1.9.0"
            assert (await made.answer(ask("cls", "好", version="1.10.0"))).version == "1.10.0"
            with pytest.raises(Refused) as caught:
                made.activate(TENANT, {"cls": "3.0.0"})
            assert "1.10.0" in caught.value.allowed
            assert made.active(TENANT) == {"cls": "1.9.0"}
            await made.unload(TENANT, "cls", "1.9.0")
            assert (await made.answer(ask("cls", "好"))).version == "1.10.0"

    asyncio.run(main())


def test_tensors_are_checked_and_computed(tmp_path):
    async def main():
        path = adder(tmp_path / "My Adder.onnx")
        manifest = await tried_onnx(path)
        assert manifest.name == "my-adder"
        assert manifest.inputs[0].shape == (-1, 3)
        async with engine() as made:
            await made.load(TENANT, manifest, "d" * 64, tmp_path, "cpu", loaded_as="adder")
            x = np.array([[1, 2, 3]], np.float32)
            response = await made.answer(ask("adder", texts=None, tensors={"x": x}))
            assert response.results[0].outputs["y"].tolist() == [[2, 4, 6]]
            for tensors, field in (
                ({}, "inputs"),
                ({"x": x, "w": x}, "inputs"),
                ({"x": x.astype(np.float64)}, "inputs.x.datatype"),
                ({"x": x[0]}, "inputs.x.shape"),
                ({"x": x[:, :2]}, "inputs.x.shape"),
            ):
                with pytest.raises(Refused) as caught:
                    await made.answer(ask("adder", texts=None, tensors=tensors))
                assert caught.value.field == field

    asyncio.run(main())


def test_loading_twice_is_harmless_and_another_digest_is_refused(tmp_path):
    async def main():
        manifest = bundle(tmp_path, "cls", CLS)
        async with engine() as made:
            one = await load(made, tmp_path, manifest)
            assert await load(made, tmp_path, manifest) is one
            with pytest.raises(Refused) as caught:
                await made.load(TENANT, manifest, "e" * 64, tmp_path, "cpu")
            assert caught.value.kind is Refusal.CONFLICT
            assert await made.check_golden(one, tmp_path) == []

    asyncio.run(main())


def test_load_of_predicts_and_estimates(tmp_path):
    async def main():
        async with engine() as made:
            await load(made, tmp_path, bundle(tmp_path, "cls", CLS))
            for i in range(20):
                await made.answer(ask("cls", "好" * (1 + i % 10)))
            known = made.load_of(TENANT, "cls", "1.0.0")
            assert known.predict(10) > 0
            assert known.expected_wait >= 0
            assert known.state is ModelState.READY
            made.activate(TENANT, {"cls": "1.0.0"})
            assert made.load_of(TENANT, "cls") is not None
            assert made.load_of(TENANT, "none") is None
            assert made.estimate(ask("cls", "好好", "好")) == 7

    asyncio.run(main())


def test_many_at_once_all_get_their_own_answer(tmp_path):
    async def main():
        async with engine() as made:
            await load(made, tmp_path, bundle(tmp_path, "cls", CLS))
            texts = ["好" * (1 + i % 12) if i % 2 else "坏" * (1 + i % 12) for i in range(300)]
            responses = await asyncio.gather(*(made.answer(ask("cls", text)) for text in texts))
            labels = [response.results[0].label for response in responses]
            assert labels == ["正面" if text[0] == "好" else "负面" for text in texts]
            stats = made.statistics(TENANT, "cls", "1.0.0")
            assert stats.success.count == 300
            assert stats.executions < 300

    asyncio.run(main())
