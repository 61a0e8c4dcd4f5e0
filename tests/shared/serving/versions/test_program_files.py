"""A program that comes back is read from the bytes that were checked, or not at all."""

import asyncio
import json
import os
import shutil

import pytest

from shared.bundle.manifest import TaskKind
from shared.protocol.errors import Corrupt, Transient
from shared.protocol.reported import ModelState
from shared.serving.sessions.onnx import OnnxSession
from shared.serving.versions.program_files import CHANGED, ProgramFiles
from tests.shared.serving.bundles import TENANT, bundle, engine
from tests.shared.serving.echo import ask, load

CLS = TaskKind.TEXT_CLASSIFICATION
GOLDEN = [{"text": "好", "expect": {"label": "正面"}}, {"text": "坏", "expect": {"label": "负面"}}] * 3


@pytest.fixture
def made(tmp_path):
    manifest = bundle(tmp_path, "cls", CLS)
    return tmp_path / "model.onnx", ProgramFiles(manifest, manifest.variants[0], tmp_path)


def test_untouched_touched_and_copied_back_are_the_same_program(made):
    path, files = made
    files.check()
    os.utime(path, (1, 1))
    files.check()
    copy = path.with_suffix(".copy")
    shutil.copy(path, copy)
    copy.replace(path)
    files.check()
    files.check()


def test_other_bytes_of_the_same_size_and_times_are_another_program(made):
    path, files = made
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    with pytest.raises(Corrupt, match="has changed") as caught:
        files.check()
    assert caught.value.code == CHANGED


def test_a_file_that_is_gone_is_said_to_be(made):
    path, files = made
    path.unlink()
    with pytest.raises(Corrupt, match="is gone"):
        files.check()


def evicting(tmp_path, main):
    """`main` with an engine of one real model that was put out of memory, and the list of every session's runs."""
    opened = []

    class Counted(OnnxSession):
        def run(self, feeds):
            opened[-1] += 1
            return super().run(feeds)

    def open_session(path, variant, arrangement):
        opened.append(0)
        return Counted(path, threads=arrangement.threads)

    async def whole():
        manifest = bundle(tmp_path, "cls", CLS, golden=GOLDEN)
        async with engine(sessions=open_session) as made:
            await load(made, tmp_path, manifest)
            await made.room.evict(((TENANT, "cls", "1.0.0"),))
            await main(made, opened)

    asyncio.run(whole())


def test_the_golden_set_is_not_replayed_and_one_run_warms(tmp_path):
    async def main(made, opened):
        assert opened[0] >= 8
        assert (await made.answer(ask("cls", "好"))).results[0].label == "正面"
        assert opened[1:] == [2], "one to warm, and the request's"
        # Whoever wants it replayed may.
        model = made.room.models[TENANT, "cls", "1.0.0"]
        await made.room.evict((model.key,))
        assert await made.check_golden(model, tmp_path) == []

    evicting(tmp_path, main)


def test_a_program_that_changed_while_it_was_out_of_memory_answers_nothing(tmp_path):
    async def main(made, opened):
        # Another program, that would load, and would answer.
        bundle(tmp_path / "other", "emb", TaskKind.TEXT_EMBEDDING)
        shutil.copy(tmp_path / "other" / "model.onnx", tmp_path / "model.onnx")
        with pytest.raises(Corrupt, match="has changed since it was checked"):
            await made.answer(ask("cls", "好"))
        (listed,) = made.models(TENANT)
        assert listed.state is ModelState.FAILED
        with pytest.raises(Transient, match="has changed"):
            await made.answer(ask("cls", "好"))
        assert opened[1:] == [], "it was not even opened"

    evicting(tmp_path, main)


def test_the_fitted_cost_survives_an_eviction(tmp_path):
    async def main(made, opened):
        model = made.room.models[TENANT, "cls", "1.0.0"]
        cost, inline = model.cost, model.program
        assert cost.observations > 0
        await made.answer(ask("cls", "好"))
        assert model.cost.observations > cost.observations
        assert inline.inline is not None
        assert json.dumps(made.room.story(), default=str)

    evicting(tmp_path, main)
