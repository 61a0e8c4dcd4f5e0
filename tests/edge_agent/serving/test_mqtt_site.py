"""Inference over MQTT inside one process: texts, bounds, and an end in order."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from shared.protocol import inference
from shared.protocol.envelope import seal, unseal
from shared.serving.faces.mqtt import LARGE
from tests.cloud_core.waiting import eventually
from tests.edge_agent.integrator import open_broker
from tests.edge_agent.serving.faces import Faces, faces_of
from tests.edge_agent.serving.world import MODEL, Device, FakeGateway, in_device


def over_mqtt(tmp_path: Path, test: Callable[[Device, Faces], Awaitable[None]], *, in_flight: int = 64) -> None:
    with open_broker(tmp_path) as broker:

        async def main(device: Device, gateway: FakeGateway) -> None:
            async with faces_of(device, broker.port, in_flight=in_flight) as faces:
                await test(device, faces)

        in_device(main)


def test_texts_are_answered_as_predict_answers_them(tmp_path: Path) -> None:
    async def test(device: Device, faces: Faces) -> None:
        one = await faces.app.ask(MODEL, {"text": "你好"}, id="one")
        assert (one["status"], one["x-tideline-where"]) == (200, "local")
        assert one["body"]["result"] == {"label": "good", "score": 0.5, "scores": {"good": 0.5}}
        assert (one["body"]["request_id"], one["body"]["task"]) == ("one", "text-classification")
        two = await faces.app.ask(MODEL, {"input_texts": ["a", "b"], "version": "1.2.0"}, id="two")
        assert [each["label"] for each in two["body"]["results"]] == ["good", "good"]
        long = await faces.app.ask(MODEL, {"text": "x" * (2 * LARGE)}, id="long")
        assert long["status"] == 200
        traced = await faces.app.ask(MODEL, {"text": "a"}, id="t", trace="00-" + "a" * 32 + "-" + "b" * 16 + "-01")
        assert traced["trace"] == "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
        for body, field in (
            ({}, "body"),
            ({"text": "a", "texts": ["b"]}, "body"),
            ({"texts": []}, "texts"),
            ({"text": "a", "version": "newest"}, "version"),
            ({"text": 1}, "body.text"),
        ):
            answer = await faces.app.ask(MODEL, body, id=f"w{field}{len(body)}".replace(".", ":"))
            assert (answer["status"], answer["body"]["field"]) == (400, field), answer
        unknown = await faces.app.ask(MODEL, {"txt": "a"}, id="u")
        assert (unknown["status"], "txt" in unknown["body"]["detail"]) == (400, True)
        device.policy(mode="local-only")
        device.failing = ValueError("a bug")
        assert (await faces.app.ask(MODEL, {"text": "a"}, id="bug"))["status"] == 500

    over_mqtt(tmp_path, test)


def test_more_than_may_be_computed_at_once_are_told_when_to_come_again(tmp_path: Path) -> None:
    async def test(device: Device, faces: Faces) -> None:
        device.policy(mode="local-only", deadline_ms=20_000)
        device.gate.clear()
        waiting = [asyncio.create_task(faces.app.ask(MODEL, {"text": "a"}, id=f"in{i}")) for i in range(2)]

        async def taken() -> bool:
            return faces.site._computing == 2

        await eventually(taken)
        answer = await faces.app.ask(MODEL, {"text": "b"}, id="third")
        assert (answer["status"], answer["body"]["code"]) == (429, "mqtt-in-flight")
        assert int(answer["retry-after"]) >= 1
        # It was not even decided on.
        assert device.ring.get("third") is None
        device.gate.set()
        assert [(await each)["status"] for each in waiting] == [200, 200]

    over_mqtt(tmp_path, test, in_flight=2)


def test_what_is_under_way_is_answered_before_the_end_and_nothing_new_is_begun(tmp_path: Path) -> None:
    async def test(device: Device, faces: Faces) -> None:
        device.policy(mode="local-only", deadline_ms=20_000)
        device.gate.clear()
        waiting = asyncio.create_task(faces.app.ask(MODEL, {"text": "a"}, id="before"))

        async def taken() -> bool:
            return faces.site._computing == 1

        await eventually(taken)
        draining = asyncio.create_task(faces.site.drain(20))
        await asyncio.sleep(0)
        answer = await faces.app.ask(MODEL, {"text": "b"}, id="after")
        assert (answer["status"], answer["body"]["code"]) == (503, "not-ready")
        device.gate.set()
        assert (await waiting)["status"] == 200
        assert await draining

    over_mqtt(tmp_path, test)


def test_an_answer_for_a_broker_that_went_away_is_lost_and_nothing_else(tmp_path: Path) -> None:
    with open_broker(tmp_path) as broker:

        async def main(device: Device, gateway: FakeGateway) -> None:
            device.policy(mode="local-only", deadline_ms=20_000)
            async with faces_of(device, broker.port) as faces:
                device.gate.clear()
                await faces.app.send(MODEL, json.dumps(faces.app.envelope({"text": "a"}, id="lost")).encode())

                async def taken() -> bool:
                    return faces.site._computing == 1

                await eventually(taken)
                broker.stop()

                async def gone() -> bool:
                    return not faces.site.connected

                await eventually(gone)
                device.gate.set()

                async def ended() -> bool:
                    return faces.site.under_way == 0

                await eventually(ended)
                story = device.ring.get("lost")
                assert story is not None
                assert story.outcome == "ok"
                assert await faces.predict("a", "next", {}) == 200
                broker.start()

        in_device(main)


@given(
    st.dictionaries(
        st.sampled_from(["X-Tideline-Privacy", "x-tideline-privacy", "X-TIDELINE-PRIVACY"]),
        st.text(max_size=20),
        min_size=1,
        max_size=1,
    )
)
def test_a_privacy_field_is_seen_however_it_is_written(written: dict[str, str]) -> None:
    sealed = json.loads(seal(inference.REQUEST, {}, id="a", now=0.0)) | {"client": "c"} | written
    envelope = unseal(json.dumps(sealed).encode())
    assert inference.fields_of(envelope) == {"x-tideline-privacy": next(iter(written.values()))}
