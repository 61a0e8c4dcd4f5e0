"""The test stand on scripted sessions: what is computed together, by whom, what stays open, and what a way is out for."""

import threading

import msgspec
import numpy as np
import pytest

from shared.bundle.manifest import MANIFEST_FILE, Requirements, TaskKind, TensorSpec, Variant, canonical, parse_manifest
from shared.protocol.errors import Corrupt
from shared.serving.arrangement import Arrangement
from shared.serving.decide.ways import Way
from shared.serving.sessions.scripted import ScriptedSession
from shared.serving.trial.replay import GoldenDiffersError
from shared.serving.tuning.stand import MOST_OPEN, Stand
from tests.hostile import programs
from tests.hostile.corpus import bundle as tensor_bundle
from tests.shared.serving.bundles import IDS, bundle

GOOD = {"text": "好", "expect": {"label": "正面"}}


class Sessions:
    """Opens sessions that know of each other; `wrong` are variants that answer something else."""

    def __init__(self, wrong=()):
        self.wrong = wrong
        self.opened = []
        self.runs = []
        self.closed = []
        self.threads = set()
        self.lengths = []

    def __call__(self, path, variant, arrangement):
        sessions = self

        class Session(ScriptedSession):
            def close(self):
                sessions.closed.append((variant.name, arrangement))

        def script(feeds):
            rows = feeds["input_ids"].shape[0]
            self.runs.append((variant.name, rows))
            self.lengths += feeds["attention_mask"].sum(axis=1).tolist()
            self.threads.add(threading.get_ident())
            good = (feeds["input_ids"] == IDS["好"]).any(axis=1)
            if variant.name in self.wrong:
                good = ~good
            return {"logits": np.where(good[:, None], [-4.0, 4.0], [4.0, -4.0]).astype(np.float32)}

        self.opened.append((variant.name, arrangement))
        specs = [TensorSpec(name=name, datatype="INT64", shape=(-1, -1)) for name in ("input_ids", "attention_mask")]
        return Session(script, inputs=tuple(specs), outputs=())


def made(
    folder, sessions, *, golden=(GOOD,), variants=("cpu",), memory=1 << 30, need=0, task=TaskKind.TEXT_CLASSIFICATION
):
    manifest = bundle(folder, "m", task, golden=list(golden))
    program = manifest.variants[0]
    forms = [
        Variant(
            name=name,
            runtime="onnx",
            precision="fp32",
            files=program.files,
            requirements=Requirements(memory_bytes=need),
        )
        for name in variants
    ]
    manifest = msgspec.structs.replace(manifest, variants=tuple(forms))
    (folder / MANIFEST_FILE).write_bytes(canonical(manifest))
    ticks = iter(range(1, 1_000_000))
    return Stand(
        manifest,
        dict.fromkeys(variants, folder),
        memory_bytes=memory,
        sessions=sessions,
        clock=lambda: next(ticks) * 1.0,
    )


def way(variant="cpu", **more):
    return Way(variant=variant, arrangement=Arrangement(**more))


def measured(sessions, stand, one, bursts):
    """Rows of the runs of a second round: everything is warm and timed once, for the clock jumps."""
    once = (1,) * len(bursts)
    stand.round(one, bursts, once, number=0)
    sessions.runs.clear()
    found = stand.round(one, bursts, once, number=0)
    assert len(found) == len(bursts)
    return [rows for _, rows in sessions.runs]


@pytest.mark.parametrize(
    ("how", "bursts", "rows"),
    [
        ({}, (1,), [1]),
        ({}, (1, 8, 64), [1, 8, 32, 32]),
        ({"rows": 8}, (1, 8, 64), [1, 8, *[8] * 8]),
        ({"rows": 64}, (64,), [64]),
        ({"rows": 64, "tokens": 30}, (64,), [10] * 6 + [4]),
        ({"lanes": 2}, (1, 8), [1, 4, 4]),
        ({"lanes": 2}, (64,), [32, 32]),
        ({"lanes": 4}, (8, 64), [2, 2, 2, 2, 16, 16, 16, 16]),
        ({"lanes": 2, "rows": 8}, (64,), [8] * 8),
    ],
)
def test_a_burst_is_cut_as_the_engines_queue_would_cut_it(tmp_path, how, bursts, rows):
    sessions = Sessions()
    assert measured(sessions, made(tmp_path, sessions), way(**how), bursts) == rows


def test_lanes_compute_at_the_same_time(tmp_path):
    """Both lanes meet in the middle of their runs: one after the other would never."""
    sessions, barrier = Sessions(), threading.Barrier(2)

    def meeting(path, variant, arrangement):
        session = sessions(path, variant, arrangement)
        run = session.run

        def meet(feeds):
            if threading.current_thread() is not threading.main_thread():
                barrier.wait(30)
            return run(feeds)

        session.run = meet
        return session

    made(tmp_path, meeting).round(way(lanes=2), (2,), (1,), number=0)
    assert len(sessions.threads) == 3


def test_a_tensor_models_requests_never_share_a_batch(tmp_path):
    runs = []
    folder = tensor_bundle("m", programs.good()).write(tmp_path / "m")
    manifest = parse_manifest((folder / MANIFEST_FILE).read_bytes())

    def open_one(path, variant, arrangement):
        def script(feeds):
            runs.append({name: array.shape for name, array in feeds.items()})
            return {spec.name: np.ones((1,), dtype=np.float32) for spec in manifest.outputs}

        return ScriptedSession(script, inputs=manifest.inputs, outputs=manifest.outputs)

    stand = Stand(manifest, {"cpu": folder}, memory_bytes=1 << 30, sessions=open_one)
    stand.alone(way())
    runs.clear()
    stand.round(way(), (4,), (1,), number=0)
    assert len(runs) == 4
    assert len({tuple(sorted(run.items())) for run in runs}) == 1


def test_every_way_answers_the_same_requests_in_a_round_and_others_in_the_next(tmp_path):
    sessions = Sessions()
    texts = ["好", "坏", "好坏", "好坏好", "坏坏坏坏", "好坏好坏好坏好"]
    golden = [{"text": text, "expect": {"label": "正面" if "好" in text else "负面"}} for text in texts]
    stand = made(tmp_path, sessions, golden=golden)
    asked = {}
    for number in (0, 1, 0):
        for one in (way(), way(threads=2), way(threads=3)):
            # Once before, so that all are warm.
            stand.round(one, (1, 8), (2, 1), number=number)
            sessions.lengths.clear()
            stand.round(one, (1, 8), (2, 1), number=number)
            asked.setdefault(number, set()).add(tuple(sorted(sessions.lengths)))
    assert {len(found) for found in asked.values()} == {1}
    assert asked[0] != asked[1]
    assert len({length for found in asked.values() for each in found for length in each}) > 3


def test_the_golden_set_is_held_against_every_program_once(tmp_path):
    sessions = Sessions(wrong={"other"})
    stand = made(tmp_path, sessions, variants=("cpu", "other"))
    assert stand.alone(way()) > 0
    with pytest.raises(GoldenDiffersError) as caught:
        stand.alone(way("other"))
    assert "负面 instead of 正面" in caught.value.differences[0]
    sessions.runs.clear()
    stand.alone(way(threads=2))
    few = len(sessions.runs)
    stand.alone(way(threads=2, runtime="openvino"))
    assert len(sessions.runs) - few > few


def test_lanes_and_bounds_share_what_is_loaded_and_threads_do_not(tmp_path):
    sessions = Sessions()
    stand = made(tmp_path, sessions)
    for one in (way(), way(lanes=2), way(rows=8), way(lanes=2, rows=8), way()):
        stand.alone(one)
    assert len(sessions.opened) == 1
    stand.alone(way(threads=2))
    stand.alone(way(runtime="openvino"))
    stand.alone(way(runtime="openvino", lanes=2))
    assert len(sessions.opened) == 4
    assert sessions.closed == []


def test_no_more_stays_open_than_there_is_memory_for(tmp_path):
    sessions = Sessions()
    stand = made(tmp_path, sessions, need=1000, memory=2500)
    for threads in (1, 2, 3, 1, 3):
        stand.alone(way(threads=threads))
    assert [how.threads for _, how in sessions.opened] == [1, 2, 3, 1]
    assert [how.threads for _, how in sessions.closed] == [1, 2]
    sessions = Sessions()
    stand = made(tmp_path / "more", sessions)
    for threads in range(1, MOST_OPEN + 2):
        stand.alone(way(threads=threads))
    assert [how.threads for _, how in sessions.closed] == [1]


def test_a_version_without_a_golden_set_is_asked_something_all_the_same(tmp_path):
    sessions = Sessions()
    assert made(tmp_path, sessions, golden=()).alone(way()) > 0


def test_a_program_that_fails_says_so(tmp_path):
    def broken(path, variant, arrangement):
        return ScriptedSession(lambda feeds: {}, failing=Corrupt("no program"))

    with pytest.raises(Corrupt, match="no program"):
        made(tmp_path, broken).alone(way())
