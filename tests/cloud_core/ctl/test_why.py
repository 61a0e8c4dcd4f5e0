"""`fleetctl why` against a real agent process."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec

from cloud_core.ctl import why
from edge_agent.decide.routing import Reason
from shared.protocol.why import Why
from tests.cloud_core.ctl.shell import Ran, Shell
from tests.edge_agent.test_agent import INPUT, program, running


def test_the_story_of_a_request_and_the_sum_of_all(tmp_path: Path) -> None:
    shell = Shell("http://127.0.0.1:1", tmp_path)

    def ctl(*arguments: str) -> Ran:
        return asyncio.run(shell("why", *arguments))

    with running("serve", str(program(tmp_path / "double.onnx")), "--port", "0", folder=tmp_path) as agent:
        edge = f"http://127.0.0.1:{agent.port}"
        nothing = ctl("--summary", "--edge", edge)
        assert (nothing.status, nothing.out) == (0, "no request was decided on since the agent started\n")
        assert agent.ask("POST", "/v2/models/double/infer", INPUT, **{"X-Request-Id": "r-1"})[0] == 200
        private = {"X-Request-Id": "r-2", "X-Tideline-Privacy": "local-only"}
        assert agent.ask("POST", "/v2/models/double/infer", INPUT, **private)[0] == 200

        told = ctl("r-1", "--edge", edge)
        assert told.status == 0, told.err
        assert "request   r-1 at 20" in told.out
        assert "asked for double@1.0.0 within" in told.out
        assert "rules     mode local-first" in told.out
        assert "decided   local: local-meets-deadline (the device was to make the deadline)" in told.out
        assert "asked     local, from" in told.out
        assert told.out.rstrip().endswith("ended     ok, by local")
        assert "tagged to stay on the device" in ctl("r-2", "--edge", edge).out

        document = ctl("r-1", "--edge", edge, "--json").json
        assert document == agent.ask("GET", "/v1/why/r-1")[2]

        summed = ctl("--summary", "--edge", edge)
        assert summed.status == 0, summed.err
        lines = summed.out.splitlines()
        assert lines[0].split() == ["REQUESTS", "SHARE", "SENT", "TO", "BECAUSE"]
        assert sorted(line.split()[:4] for line in lines[1:]) == [
            ["1", "50.0%", "local", "local-meets-deadline"],
            ["1", "50.0%", "local", "privacy"],
        ]
        assert ctl("--summary", "--edge", edge, "--json").json == {
            "routes": [
                {"where": "local", "reason": "local-meets-deadline", "requests": 1},
                {"where": "local", "reason": "privacy", "requests": 1},
            ]
        }

        unknown = ctl("never", "--edge", edge)
        assert (unknown.status, "too long ago" in unknown.err) == (1, True)
        assert "request id" in ctl("../../etc", "--edge", edge).err
        for usage in (ctl("--edge", edge), ctl("r-1", "--summary", "--edge", edge)):
            assert usage.status == 2
        assert agent.end() == 0
    gone = ctl("r-1", "--edge", edge)
    assert (gone.status, "not reachable" in gone.err) == (4, True)


def story(**changed: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "request_id": "r",
        "at": 0.0,
        "model": "m",
        "version": None,
        "mode": "fastest",
        "private": False,
        "deadline_ms": 1500.0,
        "generation": [1, 2],
        "policy_name": "near",
        "policy_revision": 3,
        "decision": "cloud",
        "reason": "cloud-faster",
        "predicted": {
            "local_wait_ms": None,
            "local_compute_ms": None,
            "cloud_ms": 41.5,
            "cloud_permitted": True,
            "cloud_announced_wait_ms": 20.0,
            "cloud_budget_left": 7,
            "breaker": "closed",
            "policy_age_s": 12.0,
        },
        "attempts": [
            {"where": "cloud", "reason": "cloud-faster", "outcome": "unreachable", "ms": 40.0, "error": "refused"},
            {"where": "local", "reason": "cloud-failed", "outcome": "ok", "ms": 5.0, "after_ms": 40.0},
        ],
        "where": "local",
        "outcome": "ok",
        "of_tomorrow": True,
    }
    return base | changed


def test_a_story_is_told_in_the_order_in_which_it_happened() -> None:
    told = why.lines(msgspec.convert(story(), Why))
    assert told == [
        "request   r at 1970-01-01 00:00:00 UTC",
        "asked for m within 1.5 s",
        "rules     mode fastest, policy near revision 3",
        "device    was not asked for a prediction, or does not serve the model",
        "cloud     predicted 41.5 ms, breaker closed, announced 20 ms of waiting, 7 left of the budget, last heard 12 s before",
        "decided   cloud: cloud-faster (the cloud was to be faster)",
        "asked     cloud, from 0 ms, 40 ms: unreachable (refused); cloud-faster (the cloud was to be faster)",
        "asked     local, from 40 ms, 5 ms: ok; cloud-failed (the cloud failed, and the device could still make it)",
        "ended     ok, by local",
    ]
    refused = why.lines(
        msgspec.convert(story(decision="none", reason="of-tomorrow", attempts=[], where=None, outcome="shed"), Why)
    )
    assert refused[-2:] == ["decided   nobody: of-tomorrow", "ended     shed, not answered"]


def test_every_reason_has_a_meaning_for_people() -> None:
    assert set(why._MEANINGS) == {reason.value for reason in Reason}
