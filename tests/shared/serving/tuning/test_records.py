"""Records on disk: whole or as they were, whoever dies; what cannot be read is put aside; two processes may write."""

import multiprocessing
import os
import signal

import msgspec
import pytest
import structlog
from structlog.testing import capture_logs

from shared.serving.tuning.records import FILE, MAX_BYTES, Records
from tests.shared.serving.tuning.test_tuned import record

LOG = structlog.wrap_logger(structlog.PrintLogger())


def test_nothing_is_made_before_there_is_something_to_remember(tmp_path):
    folder = tmp_path / "state"
    assert Records(folder, LOG).read() == ()
    assert not folder.exists()


def test_what_is_added_is_read_by_others(tmp_path):
    one, other = Records(tmp_path, LOG), Records(tmp_path)
    one.add(record(digest="a"))
    other.add(record(digest="b", at=1.0))
    one.add(record(digest="a", at=2.0, variant="cpu-fp32"))
    assert [(each.digest, each.at) for each in other.read()] == [("b", 1.0), ("a", 2.0)]


@pytest.mark.parametrize(
    "rotten",
    [b"", b"{", b"\xff\xfe", b"[]", b'{"format":2,"records":[]}', b'{"records":[{"digest":1}]}', b"[" * 100_000],
)
def test_what_rotted_is_put_aside_and_measured_again(tmp_path, rotten):
    (tmp_path / FILE).write_bytes(rotten)
    records = Records(tmp_path, LOG)
    with capture_logs() as logs:
        assert records.read() == ()
        records.add(record())
    assert records.read() == (record(),)
    assert (tmp_path / f"{FILE}.corrupt-1").read_bytes() == rotten
    assert [line["log_level"] for line in logs] == ["warning", "error"]
    (tmp_path / FILE).write_bytes(rotten)
    records.add(record())
    assert (tmp_path / f"{FILE}.corrupt-2").read_bytes() == rotten


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    with (tmp_path / FILE).open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    assert Records(tmp_path).read() == ()


def test_fields_of_a_newer_agent_do_no_harm(tmp_path):
    Records(tmp_path).add(record())
    document = msgspec.json.decode((tmp_path / FILE).read_bytes())
    document["records"][0]["mood"] = "good"
    (tmp_path / FILE).write_bytes(msgspec.json.encode(document))
    assert Records(tmp_path).read() == (record(),)


def _die_while_writing(folder):
    os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    Records(folder).add(record(digest="new"))


def test_a_death_in_the_middle_leaves_what_was_there(tmp_path):
    Records(tmp_path).add(record(digest="old"))
    process = multiprocessing.get_context("fork").Process(target=_die_while_writing, args=(tmp_path,))
    process.start()
    process.join(30)
    assert process.exitcode == -signal.SIGKILL
    records = Records(tmp_path)
    assert [each.digest for each in records.read()] == ["old"]
    records.add(record(digest="newer", at=1.0))
    assert [each.digest for each in records.read()] == ["old", "newer"]


def _add(folder, name):
    for n in range(10):
        Records(folder).add(record(digest=f"{name}{n}"))


def test_two_processes_lose_nothing(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_add, args=(tmp_path, name)) for name in "ab"]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert {each.digest for each in Records(tmp_path).read()} == {f"{name}{n}" for name in "ab" for n in range(10)}
