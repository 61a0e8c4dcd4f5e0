"""`fleetctl rollouts`: what people see, what programs get, and how each command ends."""

import asyncio
from pathlib import Path

import msgspec

from cloud_core.decide.rollout_devices import DeviceState, Member
from cloud_core.decide.rollout_gates import Check, Outcome
from cloud_core.decide.rollout_spec import State, Verdict, Why
from cloud_core.store import rollouts
from cloud_core.store.database import write
from tests.cloud_core.api.server import running
from tests.cloud_core.api.test_rollouts import fleet
from tests.cloud_core.ctl.shell import Shell


def test_a_rollout_from_the_plan_to_its_verdict(sqlite_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(sqlite_url, tmp_path) as api:
            await fleet(api, "till-1", "till-2")
            shell = Shell(api.url, tmp_path, FLEETCTL_TOKEN=str(api.admin.token))
            begin = ("rollouts", "start", "tiny@1.1.0", "--to", "shops", "--wave", "1", "--wave", "100%")
            plan = await shell(*begin, "--dry-run")
            assert (plan.status, "2 devices" in plan.out, "offline, they come last: till-1, till-2" in plan.out) == (
                0,
                True,
                True,
            )
            assert (await shell("rollouts", "list")).out.strip() == "no rollout"
            made = await shell(*begin, "--per-minute", "5", "--approval", "start", "--json")
            id_ = made.json["id"]
            assert made.json["spec"]["rate"]["base_per_minute"] == 5
            again = await shell(*begin)
            assert (again.status, "a rollout of this model is under way; field model" in again.err) == (3, True)
            assert (await shell("rollouts", "start", "tiny", "--to", "shops")).status == 2
            listed = (await shell("rollouts", "list")).out
            assert all(word in listed for word in (id_, "tiny@1.1.0", "shops", "running", "1 of 2 (1)", "none yet"))

            for action, status, word in (
                ("approve", 3, "a rollout that is running cannot be told to approve"),
                ("pause", 0, "paused"),
                ("resume", 0, "running"),
                ("rollback", 0, "rolling_back"),
                ("abort", 3, "cannot be told to abort"),
            ):
                ran = await shell("rollouts", action, id_)
                assert ran.status == status, ran
                assert word in ran.out + ran.err

            check = Check(name="errors", outcome=Outcome.BAD, base=0.002, candidate=0.03, limit=0.01, chance=1e-9)
            verdict = Verdict(
                at=1.0, wave=0, decision=State.ROLLING_BACK, why=Why.EVIDENCE, numbers={"succeeded": 1}, checks=(check,)
            )
            async with write(api.engine) as connection:
                await rollouts.put_members(
                    connection,
                    "default",
                    id_,
                    [Member(device="till-1", wave=0, state=DeviceState.SUCCEEDED, admitted_at=1.0, base="1.0.0")],
                )
                await rollouts.add_verdict(connection, "default", id_, verdict)
                stored = await rollouts.get(connection, "default", id_)
                assert stored is not None
                ended = msgspec.structs.replace(stored.rollout, state=State.ROLLED_BACK)
                assert await rollouts.put(connection, "default", ended, revision=stored.revision, now=2.0)
            shown = (await shell("rollouts", "show", id_)).out
            assert all(
                word in shown for word in ("till-1", "1.0.0", "rolling_back (evidence)", "errors", "0.03", "1e-09")
            )
            assert (await shell("rollouts", "show", id_, "--json")).json["members"][0]["device"] == "till-1"
            watched = await shell("rollouts", "watch", id_)
            assert (watched.status, "rolled_back" in watched.out) == (1, True)
            assert (await shell("rollouts", "show", "nobody")).status == 1

    asyncio.run(scenario())
