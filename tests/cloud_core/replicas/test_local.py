"""A replica converges on what the registry says, level by level, and serves on without it."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from cloud_core.store import replicas, serving
from cloud_core.store.database import read
from shared.bundle.manifest import TaskKind
from shared.protocol.errors import Transient
from shared.serving.answer import Request
from shared.serving.arrangement import ONNXRUNTIME, OPENVINO, Arrangement
from tests.cloud_core.gateway.cloud import InProcessReplica, Registry, registry
from tests.cloud_core.waiting import eventually
from tests.shared.serving.bundles import bundle, echo, files_of


async def rows(registry: Registry) -> list[replicas.Replica]:
    async with read(registry.engine) as connection:
        return await serving.replicas(connection)


def test_it_serves_the_newest_and_the_assigned_and_unloads_the_rest(sqlite_url: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with registry(sqlite_url, tmp_path) as made:
            for version in ("1.0.0", "1.1.0", "1.2.0"):
                manifest = bundle(tmp_path / version, "tags", TaskKind.TOKEN_CLASSIFICATION, version=version)
                await made.publish(manifest, tmp_path / version)
            await made.assign("tags", "1.0.0")
            replica = await InProcessReplica(made, "replica-7").start()
            try:

                async def serves(*versions: str) -> bool:
                    return replica.served() == {f"tags@{version}": "ready" for version in versions}

                await eventually(lambda: serves("1.0.0", "1.2.0"))
                assert replica.engine.active("default") == {"tags": "1.2.0"}
                await made.assign("tags", "1.1.0")
                await eventually(lambda: serves("1.1.0", "1.2.0"))
                await made.delete("tags", "1.2.0")
                await eventually(lambda: serves("1.1.0"))
                assert replica.engine.active("default") == {"tags": "1.1.0"}

                async def one_bundle() -> bool:
                    folder = made.settings.data / "replicas" / "replica-7" / "bundles"
                    return len(list(folder.iterdir())) == 1

                await eventually(one_bundle)

                async def reported() -> bool:
                    return [(row.version, row.state) for row in (await rows(made))[0].served] == [("1.1.0", "ready")]

                await eventually(reported)
                assert (await rows(made))[0].url == f"http://127.0.0.1:{replica.port}"
            finally:
                await replica.crash()

    asyncio.run(main())


def test_what_fails_is_reported_and_tried_again_until_it_works(sqlite_url: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with registry(sqlite_url, tmp_path) as made:
            good = bundle(tmp_path / "good", "good", TaskKind.TENSOR)
            late = bundle(tmp_path / "late", "late", TaskKind.TEXT_EMBEDDING, version="2.0.0")
            await made.publish(late, tmp_path / "late", chunks=False)
            await made.publish(good, tmp_path / "good")
            replica = await InProcessReplica(made, "replica-0").start()
            try:

                async def states() -> bool:
                    return replica.served() == {"good@1.0.0": "ready", "late@2.0.0": "failed"}

                await eventually(states)
                made.store(tmp_path / "late")

                async def all_ready() -> bool:
                    return set(replica.served().values()) == {"ready"}

                await eventually(all_ready)
                said = [line for line in replica.lines if line["event"] == "version cannot be served"]
                assert said
                assert said[0]["model"] == "late"
            finally:
                await replica.crash()

    asyncio.run(main())


def test_a_database_that_is_away_changes_nothing_of_what_is_served(sqlite_url: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with registry(sqlite_url, tmp_path) as made:
            manifest = bundle(tmp_path / "m", "sentiment", TaskKind.TEXT_CLASSIFICATION)
            await made.publish(manifest, tmp_path / "m")
            replica = await InProcessReplica(made, "replica-0").start()
            try:

                async def serves() -> bool:
                    return replica.served() == {"sentiment@1.0.0": "ready"}

                await eventually(serves)
                file = Path(made.engine.url.database or "")
                hidden = file.rename(file.with_suffix(".away"))
                file.mkdir()
                await made.engine.dispose()

                async def noticed() -> bool:
                    return any(line["event"].startswith("the registry cannot be written") for line in replica.lines)

                await eventually(noticed)
                with pytest.raises(Transient):
                    await replica.replica.converge_once()
                response = await replica.engine.answer(
                    Request(id="r", tenant="default", model="sentiment", texts=("好",))
                )
                assert response.version == "1.0.0"
                file.rmdir()
                hidden.rename(file)
                await made.engine.dispose()

                async def back() -> bool:
                    return any(line["event"] == "the registry can be written again" for line in replica.lines)

                await eventually(back)
            finally:
                await replica.crash()

    asyncio.run(main())


def test_openvino_runs_what_it_can_and_onnxruntime_the_rest(sqlite_url: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with registry(sqlite_url, tmp_path) as made:
            labels = bundle(tmp_path / "labels", "labels", TaskKind.TEXT_CLASSIFICATION)
            text = bundle(tmp_path / "text", "text", TaskKind.TENSOR)
            # Text in and out, which OpenVINO does not take.
            echo(tmp_path / "text" / "model.onnx")
            text = msgspec.structs.replace(text, files=files_of(tmp_path / "text"))
            await made.publish(labels, tmp_path / "labels")
            await made.publish(text, tmp_path / "text")
            replica = await InProcessReplica(made, "replica-0", arrangement=Arrangement(runtime=OPENVINO)).start()
            try:

                async def ready() -> bool:
                    return replica.served() == {"labels@1.0.0": "ready", "text@1.0.0": "ready"}

                await eventually(ready, within=60)
                runtimes = {
                    name: replica.engine._models["default", name, "1.0.0"].arrangement.runtime
                    for name in ("labels", "text")
                }
                assert runtimes == {"labels": OPENVINO, "text": ONNXRUNTIME}
                (line,) = [line for line in replica.lines if line["event"] == "ONNX Runtime instead of OpenVINO"]
                assert line["model"] == "text"
                request = Request(id="1", tenant="default", model="labels", texts=("好",))
                (label,) = (await replica.engine.answer(request)).results
                assert label.label == "正面"
            finally:
                await replica.crash()

    asyncio.run(main())
