import asyncio
import threading
from pathlib import Path

import numpy as np
import pytest

from shared.bundle.manifest import Manifest, TaskKind, TensorSpec, Variant
from shared.io.clock import SystemClock
from shared.protocol.errors import Corrupt, Overloaded, Refusal, Refused, Transient, Unavailable
from shared.protocol.reported import ModelState
from shared.serving.answer import Request, Text
from shared.serving.decide.admission import Limits
from shared.serving.plain_onnx import manifest_of_onnx
from shared.serving.sessions.scripted import ScriptedSession
from shared.serving.tasks.task import Prepared
from tests.shared.serving.bundles import TENANT, adder, bundle, engine, until

CLS, NER, EMB = TaskKind.TEXT_CLASSIFICATION, TaskKind.TOKEN_CLASSIFICATION, TaskKind.TEXT_EMBEDDING


def ask(model: str, *texts: str, **fields) -> Request:
    return Request(**({"id": "r", "tenant": TENANT, "model": model, "texts": texts} | fields))


class EchoTask:
    """Every text is one token; outputs are texts, `None` for the end."""

    name = "echo"

    def estimate(self, item):
        return 1

    def prepare(self, item, parameters):
        return Prepared(tokens=len(item), data=item, parameters=parameters)

    def collate(self, batch):
        return {"texts": np.array([item.data for item in batch], dtype=object)}

    def finish(self, batch, outputs):
        piece = str(outputs["piece"])
        return [Text(text=piece, tokens=1, finish="stop" if piece == "." else None) for _ in batch]


def scripted(session: ScriptedSession, **options):
    return engine(sessions=lambda path, runtime, threads: session, tasks=lambda manifest, folder: EchoTask(), **options)


def manifest_for(name: str = "gen", version: str = "1.0.0") -> Manifest:
    variant = Variant(name="cpu", runtime="onnx", precision="fp32", files=("m",))
    # A tensor model is not warmed by a text: the script sees only what the test sends.
    return Manifest(name=name, version=version, task=TaskKind.TENSOR, variants=(variant,), files=())


def steps(*pieces: str):
    return lambda feeds: [{"piece": np.array(piece)} for piece in pieces]


def load(made, folder, manifest, **options):
    return made.load(TENANT, manifest, "d" * 64, folder, "cpu", **options)


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
        manifest = manifest_of_onnx(path)
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


def test_a_session_that_raises_fails_its_own_batch_only():
    async def main():
        def script(feeds):
            if "bad" in feeds["texts"]:
                raise ValueError("boom")
            return [{"piece": np.array(".")}]

        async with scripted(
            ScriptedSession(script, inputs=(TensorSpec(name="texts", datatype="BYTES", shape=(-1,)),))
        ) as made:
            await load(made, Path(), manifest_for())
            assert (await made.answer(ask("gen", "a"))).results[0].text == "."
            with pytest.raises(Corrupt, match="boom"):
                await made.answer(ask("gen", "bad"))
            assert (await made.answer(ask("gen", "a"))).results[0].text == "."
            assert any(line["event"] == "batch failed" for line in made.lines)

    asyncio.run(main())


def test_text_streams_piece_by_piece_while_it_is_computed():
    async def main():
        gate = threading.Event()
        session = ScriptedSession(steps("你", "好", "."), gate=gate)
        async with scripted(session) as made:
            await load(made, Path(), manifest_for())
            pieces = made.stream(ask("gen", "a"))
            waiting = asyncio.ensure_future(anext(pieces))
            await asyncio.to_thread(session.started.wait, 5)
            assert not waiting.done()
            gate.set()
            assert (await waiting).results[0].text == "你"
            rest = [piece.results[0] async for piece in pieces]
            assert [(piece.text, piece.finish) for piece in rest] == [("好", None), (".", "stop")]
            (whole,) = (await made.answer(ask("gen", "a"))).results
            assert (whole.text, whole.tokens, whole.finish) == ("你好.", 3, "stop")

    asyncio.run(main())


def test_a_stream_that_is_left_ends_the_computation():
    async def main():
        gate = threading.Event()
        session = ScriptedSession(steps(*("x" * 1000), "."))
        session._gate = gate
        async with scripted(session) as made:
            await load(made, Path(), manifest_for())
            pieces = made.stream(ask("gen", "a"))
            waiting = asyncio.ensure_future(anext(pieces))
            await asyncio.to_thread(session.started.wait, 5)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            gate.set()
            await until(lambda: made.load_of(TENANT, "gen", "1.0.0").running == 0)
            assert session.steps < 1000
            with pytest.raises(Refused):
                await anext(made.stream(ask("gen", "a", "b")))

    asyncio.run(main())


def test_cancelled_and_late_requests_are_never_computed():
    async def main():
        gate = threading.Event()
        session = ScriptedSession(steps("."), gate=gate)
        async with scripted(session) as made:
            await load(made, Path(), manifest_for())
            first = asyncio.ensure_future(made.answer(ask("gen", "first")))
            await asyncio.to_thread(session.started.wait, 5)
            gone = asyncio.ensure_future(made.answer(ask("gen", "gone")))
            late = asyncio.ensure_future(made.answer(ask("gen", "late", deadline=SystemClock().monotonic() + 0.02)))
            with pytest.raises(Transient) as caught:
                await late
            assert caught.value.why is Unavailable.DEADLINE
            gone.cancel()
            await asyncio.gather(gone, return_exceptions=True)
            gate.set()
            await first
            assert len(session.runs) == 1
            assert made.load_of(TENANT, "gen", "1.0.0").queued == 0
            counted = {
                sample.labels["outcome"]: sample.value
                for metric in made.registry.collect() if metric.name == "tideline_requests"
                for sample in metric.samples if sample.name.endswith("_total")
            }  # fmt: skip
            assert counted == {"ok": 1, "deadline-missed": 1, "cancelled": 1}

    asyncio.run(main())


def test_requests_are_shed_by_bounds_and_by_deadline():
    async def main():
        gate = threading.Event()
        session = ScriptedSession(steps("."), gate=gate)
        async with scripted(session, limits=Limits(entries=2)) as made:
            await load(made, Path(), manifest_for())
            running = [asyncio.ensure_future(made.answer(ask("gen", "a"))) for _ in range(2)]
            await asyncio.to_thread(session.started.wait, 5)
            with pytest.raises(Overloaded) as caught:
                await made.answer(ask("gen", "b"))
            assert caught.value.code == "queue-full"
            assert caught.value.retry_after > 0
            gate.set()
            await asyncio.gather(*running)
            with pytest.raises(Overloaded) as caught:
                await made.answer(ask("gen", "b", deadline=SystemClock().monotonic() - 1))
            assert caught.value.code == "deadline"

    asyncio.run(main())


def test_unload_lets_what_waits_finish_then_ends_the_thread():
    async def main():
        gate = threading.Event()
        session = ScriptedSession(steps("."), gate=gate)
        async with scripted(session) as made:
            await load(made, Path(), manifest_for())
            running = asyncio.ensure_future(made.answer(ask("gen", "a")))
            await asyncio.to_thread(session.started.wait, 5)
            unloading = asyncio.ensure_future(made.unload(TENANT, "gen", "1.0.0"))
            await until(lambda: made.models()[0].state is ModelState.DRAINING)
            with pytest.raises(Transient):
                await made.answer(ask("gen", "b"))
            gate.set()
            assert (await running).results[0].text == "."
            await unloading
            assert session.closed
            assert made.models() == []
            assert not [thread for thread in threading.enumerate() if thread.name.startswith("gen@")]

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
