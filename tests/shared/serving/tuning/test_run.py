"""A parent and processes that measure and do their worst: what was said is kept, what they die of is out, and nothing else is."""

import asyncio
import os
import sys

import msgspec
import psutil
import pytest

from shared.protocol.errors import Corrupt, Transient
from shared.serving.decide.tuning import Finish, Progress, Why
from shared.serving.decide.ways import Program, Space
from shared.serving.trial.verdict import TrialLimits
from shared.serving.tuning.run import MOST_DEATHS, tune
from shared.serving.tuning.wire import TuneRequest

SPACE = Space(programs=(Program(variant="a"), Program(variant="b")), cores=1, batched=False, seconds=100.0)
CHILD = """
import os, sys, time, signal
import msgspec
from shared.serving.decide.tuning import *
from shared.serving.tuning.wire import *
out = os.dup(1)
def say(what):
    os.write(out, msgspec.json.encode(what) + b"\\n")
request = msgspec.json.decode(sys.stdin.buffer.read(), type=TuneRequest)
def said(move, seconds=lambda way: 0.001):
    if isinstance(move, Probe):
        return Alone(way=move.way, seconds=seconds(move.way), took=0.01)
    return Sample(stage=move.stage, way=move.way, seconds=(seconds(move.way),) * len(move.bursts), took=0.01)
def measure(disturb=lambda move, n: None, seconds=lambda way: 0.001):
    progress, n = request.progress, 0
    while not isinstance(move := next_move(request.space, progress), Finish):
        disturb(move, n)
        say(said(move, seconds))
        progress, n = advanced(progress, said(move, seconds)), n + 1
    os._exit(0)
"""
READY = 'say("seccomp"); say(Ready())\n'


def tuned(script, *, space=SPACE, seconds=30.0, keep=lambda progress: None, progress=None):
    """What the parent makes of processes that run `script`."""
    request = TuneRequest(
        folders={"a": "a", "b": "b"},
        space=space,
        progress=progress or Progress(),
        limits=TrialLimits(seconds=seconds),
    )
    return asyncio.run(tune(request, keep=keep, program=(sys.executable, "-c", CHILD + script)))


def test_a_run_to_its_end_is_kept_as_it_goes():
    kept = []
    progress, finish = tuned(
        READY + 'measure(seconds=lambda way: 0.001 if way.variant == "b" else 0.1)', keep=kept.append
    )
    assert (finish.way.variant, finish.reason) == ("b", Why.MEASURED)
    assert kept[-1] == progress
    assert [len(each.samples) for each in kept] == list(range(len(kept)))


@pytest.mark.parametrize(
    ("death", "code"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "crashed"),
        ("os._exit(0)", "crashed"),
        ("sys.exit(3)", "crashed"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "too-large"),
        ("os.write(2, b'bad_alloc'); os.abort()", "too-large"),
        ("say('nonsense')", "crashed"),
        ("os.write(out, b'{\\n')", "crashed"),
        ("say(Left(way=request.space.programs and move.way, code='x', took=-1.0)) or os._exit(0)", "crashed"),
    ],
)
def test_what_a_process_dies_of_is_out_and_the_rest_is_measured(death, code):
    script = f"""{READY}
def disturb(move, n):
    if move.way.variant == "a" and not isinstance(move, Probe):
        {death}
measure(disturb)
"""
    progress, finish = tuned(script)
    assert [(each.way.variant, each.code) for each in progress.out] == [("a", code)]
    assert finish.way.variant == "b"


def test_a_process_that_falls_silent_is_ended_and_so_is_what_it_did():
    script = READY + "measure(lambda move, n: time.sleep(1000) if move.way.variant == 'a' else None)"
    progress, finish = tuned(script, seconds=2.0)
    assert [(each.way.variant, each.code) for each in progress.out] == [("a", "too-slow")]
    assert finish.way.variant == "b"


def test_a_process_may_take_longer_than_the_limit_as_long_as_it_speaks():
    script = READY + "measure(lambda move, n: time.sleep(0.4))"
    progress, finish = tuned(script, seconds=3.0)
    assert not progress.out
    assert len(progress.samples) * 0.4 > 3.0
    assert finish.reason is Why.MEASURED


def test_what_nobody_asked_for_is_not_believed():
    """It says that a way nobody asked for takes no time."""
    script = (
        READY
        + """
from shared.serving.decide.ways import Way
say(Alone(way=Way(variant="z"), seconds=1e-9))
measure()
"""
    )
    progress, finish = tuned(script)
    assert {each.way.variant for each in progress.out} == {"a", "b"}
    assert (progress.alone, finish.way) == (None, None)


def test_who_kills_every_process_is_given_up():
    programs = tuple(Program(variant="a", precision=str(n)) for n in range(MOST_DEATHS + 3))
    space = msgspec.structs.replace(SPACE, programs=programs)
    progress, finish = tuned(READY + "os.abort()", space=space)
    assert len(progress.out) == MOST_DEATHS
    assert finish == Finish(way=None, reason=Why.ALL_OUT)


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ('say("seccomp"); say(Unfit(code="no-manifest", message="there is none"))', "no-manifest"),
        ('say("seccomp"); os.abort()', "crashed"),
        ("sys.exit(1)", "crashed"),
    ],
)
def test_a_version_that_cannot_be_measured_at_all(script, code):
    with pytest.raises(Corrupt) as caught:
        tuned(script)
    assert caught.value.code == code


def test_what_is_known_is_not_measured_again():
    progress, finish = tuned(READY + "measure()")
    assert tuned("os.abort()", progress=progress) == (progress, finish)


def test_cancelling_ends_the_process_at_once_and_keeps_what_was_said(tmp_path):
    note, kept = tmp_path / "pid", []
    script = f"""{READY}
def disturb(move, n):
    if n == 3:
        open({str(note)!r}, "w").write(str(os.getpid()))
        time.sleep(1000)
measure(disturb)
"""

    async def main():
        request = TuneRequest(folders={"a": "a", "b": "b"}, space=SPACE)
        run = asyncio.create_task(tune(request, keep=kept.append, program=(sys.executable, "-c", CHILD + script)))
        async with asyncio.timeout(30):
            while not (note.exists() and note.read_text() and len(kept) == 3):
                await asyncio.sleep(0.01)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run

    asyncio.run(main())
    assert not psutil.pid_exists(int(note.read_text()))
    assert len(kept[-1].samples) == 2
    progress, finish = tuned(READY + "measure()", progress=kept[-1])
    assert progress.samples[:2] == kept[-1].samples
    assert finish.reason is Why.MEASURED


def test_the_process_of_ours_that_is_not_there():
    request = TuneRequest(folders={"a": "a"}, space=SPACE)
    with pytest.raises(Transient):
        asyncio.run(tune(request, program=("/nowhere/python",)))


def test_nothing_of_the_environment_is_inherited(monkeypatch):
    monkeypatch.setenv("EDGE_AGENT_ENROL_TOKEN", "hunter2")
    script = 'sys.stderr.write(os.environ.get("EDGE_AGENT_ENROL_TOKEN", "nothing")); sys.exit(1)'
    with pytest.raises(Corrupt, match="nothing"):
        tuned(script)
    assert os.environ["EDGE_AGENT_ENROL_TOKEN"] == "hunter2"
