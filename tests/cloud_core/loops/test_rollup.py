"""History on both databases: each sample once, whatever crashes and whatever comes late, and the same when it is made anew."""

import asyncio
import contextlib
import random
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa
from prometheus_client import CollectorRegistry
from prometheus_client.samples import Sample as Sampled

from cloud_core.decide.rollup import Cell, Key, added, cells_of
from cloud_core.loops.fleet_metrics import MOST, MOST_WORDS, OTHER, FleetMetrics
from cloud_core.loops.rollup import DEVICES, FLEET, Rollup, Stage, recompute, roll_up
from cloud_core.store import history, partitions
from cloud_core.store.database import Connection, open_database, read, write
from cloud_core.store.history import DEVICE, GROUP, KEPT_S, Place
from cloud_core.store.telemetry_tables import HISTORY
from shared.io.deflate import deflated
from shared.protocol import telemetry
from shared.protocol.telemetry import Batch, Sample, histogram_of
from tests.cloud_core.broker.brokers import LOG, connected, database, running
from tests.cloud_core.decide.test_rollup import same
from tests.cloud_core.loops.fleet import START, Agent, loops, publish_model, put_group
from tests.cloud_core.loops.telemetry import HOUR, registry, sample, say, told
from tests.cloud_core.waiting import eventually

NOW = HOUR + 2 * 3600.0


class Hand:
    """A clock moved by hand."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def wall(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


async def _rows(connection: Connection) -> dict[tuple[int, Place], Cell]:
    found = {}
    for seconds, table in HISTORY.items():
        for row in (await connection.execute(sa.select(table))).all():
            place = Place(row.tenant, row.scope, row.name, row.started_at, Key(row.model, row.version, row.place))
            found[seconds, place] = msgspec.json.decode(row.cell, type=Cell)
    return found


class Crash(Exception):
    """The process ends here."""


def perhaps_die(*, dies: bool) -> None:
    if dies:
        raise Crash


def test_whatever_crashes_and_comes_late_each_sample_counts_once(database_url: str) -> None:
    """Random batches, in random order and twice, rolled up in random steps of which some die before they commit."""
    dice = random.Random(11)

    async def scenario() -> None:
        async with registry(database_url, {"g": ["d0", "d1"], "h": ["d1", "d2"]}) as engine:
            sent: dict[tuple[str, int], Sample] = {}
            for n in range(120):
                device, seq = f"d{n % 3}", n // 3
                sent[device, seq] = sample(
                    seq,
                    *(dice.lognormvariate(-4, 1) for _ in range(dice.randrange(4))),
                    at=HOUR + dice.randrange(400) * 10.0,
                    version=dice.choice(("1.0.0", "1.1.0")),
                    outcome=dice.choice(("ok", "ok", "timeout")),
                )
            waiting = [*sent, *sent]
            dice.shuffle(waiting)

            async def step(stage: Stage, *, dies: bool) -> None:
                with contextlib.suppress(Crash):
                    async with write(engine) as connection:
                        await roll_up(connection, stage, now=NOW, limit=dice.randrange(1, 30))
                        perhaps_die(dies=dies)

            while waiting:
                for device, seq in (waiting.pop() for _ in range(min(len(waiting), dice.randrange(1, 25)))):
                    await say(engine, device, sent[device, seq])
                await step(dice.choice((FLEET, DEVICES)), dies=dice.random() < 0.4)
            for stage in (FLEET, DEVICES):
                while True:
                    async with write(engine) as connection:
                        if not (await roll_up(connection, stage, now=NOW)).samples:
                            break

            def expected(*devices: str) -> Cell:
                return added(
                    cell for (name, _), one in sent.items() if name in devices for cell in cells_of(one).values()
                )

            whole = HOUR, HOUR + 4000.0
            assert same(await told(engine, *whole), expected("d0", "d1", "d2"))
            assert same(await told(engine, *whole, scope=GROUP, names=["g"]), expected("d0", "d1"))
            assert same(await told(engine, *whole, scope=GROUP, names=["h"]), expected("d1", "d2"))
            for name in ("d0", "d1", "d2"):
                found = await told(engine, *whole, scope=DEVICE, names=[name], seconds=(60, 3600))
                assert same(found, expected(name))
            # Each resolution says the same of the whole.
            for seconds in (10, 60, 3600):
                assert same(await told(engine, *whole, seconds=(seconds,)), expected("d0", "d1", "d2"))

            async with write(engine) as connection:
                before = await _rows(connection)
                await recompute(connection, "a", start=HOUR, end=HOUR + 3600, now=NOW)
                await recompute(connection, "a", start=HOUR + 3600, end=HOUR + 7200, now=NOW)
                after = await _rows(connection)
            assert before.keys() == after.keys()
            assert all(same(cell, after[place]) for place, cell in before.items())

    asyncio.run(scenario())


def test_recomputing_repairs_what_was_damaged_and_leaves_the_rest(database_url: str) -> None:
    async def scenario() -> None:
        async with registry(database_url, {"g": ["d0"]}) as engine, registry(database_url, {"g": ["d0"]}, tenant="b"):
            for at in (HOUR, HOUR + 3600.0):
                await say(engine, "d0", sample(int(at), 0.1, at=at))
                await say(engine, "d0", sample(int(at), 0.1, at=at), tenant="b")
            async with write(engine) as connection:
                for stage in (FLEET, DEVICES):
                    await roll_up(connection, stage, now=NOW)
                before = await _rows(connection)
                damaged = {
                    place: Cell(counts={"requests": 999})
                    for seconds, place in before
                    if seconds == 60 and place.tenant == "a"
                }
                await history.put(connection, 60, damaged)
                await recompute(connection, "a", start=HOUR, end=HOUR + 3600, now=NOW)
                after = await _rows(connection)
            for (seconds, place), cell in before.items():
                if (seconds, place.tenant) == (60, "a") and place.started_at >= HOUR + 3600:
                    assert after[seconds, place].counts == {"requests": 999}
                else:
                    assert same(after[seconds, place], cell)

    asyncio.run(scenario())


def test_what_is_too_old_for_a_resolution_is_not_written_and_goes_when_it_becomes_so(database_url: str) -> None:
    async def scenario() -> None:
        async with registry(database_url, {"g": ["d0"]}) as engine:
            await say(engine, "d0", sample(1, 0.1), sample(2, 0.1, at=HOUR - KEPT_S[10] - 10))

            async def requests(seconds: int) -> int:
                return (await told(engine, HOUR - 5e6, HOUR + 3600.0, seconds=(seconds,))).counts.get("requests", 0)

            async with write(engine) as connection:
                await roll_up(connection, FLEET, now=float(HOUR))
                await partitions.ensure(connection, 10, {HOUR})
            assert [await requests(seconds) for seconds in (10, 60, 3600)] == [1, 2, 2]
            for seconds, left in ((10, [0, 2, 2]), (60, [0, 0, 2]), (3600, [0, 0, 0])):
                async with write(engine) as connection:
                    await history.trim(connection, now=HOUR + KEPT_S[seconds] + 3600.0)
                assert [await requests(one) for one in (10, 60, 3600)] == left

    asyncio.run(scenario())


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_partitions_are_made_once_and_dropped_whole(database_url: str) -> None:
    async def scenario() -> None:
        engine = open_database(database_url)

        async def names() -> set[str]:
            async with read(engine) as connection:
                found = await connection.execute(
                    sa.text("SELECT relname FROM pg_class WHERE relname LIKE 'history_10_p%'")
                )
                return {name for name in found.scalars() if not name.endswith("_pkey") and "started_at" not in name}

        day = 86400
        for _ in range(2):
            async with write(engine) as connection:
                await partitions.ensure(connection, 10, {10 * day, 10 * day + 10, 11 * day})
        assert await names() == {"history_10_p10", "history_10_p11"}
        async with write(engine) as connection:
            await partitions.forget(connection, 10, before=11.0 * day)
        assert await names() == {"history_10_p11"}
        await engine.dispose()

    asyncio.run(scenario())


def test_metrics_of_the_fleet_are_bounded_and_add_up(sqlite_url: str) -> None:
    async def scenario() -> None:
        async with registry(sqlite_url, {"g": ["d0", "d1"]}) as engine:
            await publish_model(engine, "m0", "1.0.0")
            found = CollectorRegistry()
            rollup = Rollup(engine, turn=asyncio.Lock(), metrics=FleetMetrics(found), clock=Hand(), log=LOG)
            for n in range(60):
                one = sample(n, 0.002, 0.2, model=f"m{n % 3}", outcome=f"made-up-{n}" if n % 3 else "ok")
                await say(engine, f"d{n % 2}", msgspec.structs.replace(one, dropped={"spool-full": 2}))
            for stage in (FLEET, DEVICES):
                while await rollup.roll_up(stage):
                    pass
            known = {"model": "m0", "version": "1.0.0", "where": "local"}
            assert found.get_sample_value("tideline_fleet_requests_total", {**known, "outcome": "ok"}) == 2 * 20
            assert found.get_sample_value("tideline_fleet_request_seconds_count", known) == 2 * 20
            assert found.get_sample_value("tideline_fleet_request_seconds_bucket", {**known, "le": "0.0025"}) == 20
            # What the registry does not know has no label of its own, however many words devices have for it.
            others = {**known, "model": OTHER, "version": OTHER}
            assert found.get_sample_value("tideline_fleet_request_seconds_count", others) == 2 * 40
            assert found.get_sample_value("tideline_telemetry_dropped_total", {"reason": "spool-full"}) == 120

    asyncio.run(scenario())


def test_labels_of_the_fleet_are_bounded() -> None:
    found = CollectorRegistry()
    metrics = FleetMetrics(found)
    versions = [(f"m{n}", "1.0.0") for n in range(MOST + 50)]
    for n, (model, version) in enumerate(versions):
        cell = Cell(counts={f"requests/{n}": 1}, histograms={"latency": histogram_of([0.1])})
        metrics.rolled_up([(Key(model, version, f"place-{n}"), cell)], published=versions)
    for family in found.collect():
        for name in ("model", "where", "outcome"):
            words = {one.labels[name] for one in family.samples if name in one.labels}
            assert len(words) <= (MOST if name == "model" else MOST_WORDS) + 1, (family.name, name)
    assert sum(one.value for one in _samples(found, "tideline_fleet_requests_total")) == MOST + 50
    assert sum(one.value for one in _samples(found, "tideline_fleet_request_seconds_count")) == MOST + 50


def _samples(found: CollectorRegistry, name: str) -> list[Sampled]:
    return [one for family in found.collect() for one in family.samples if one.name == name]


def test_what_devices_say_reaches_history_through_the_broker(tmp_path: Path) -> None:
    """Compressed and not, twice and late: what the fleet's history says is what the devices said."""

    async def main() -> None:
        async with (
            database(tmp_path, "a/d1", "a/d2") as engine,
            running("embedded", tmp_path, engine) as site,
            loops(site) as (_, found),
        ):
            await put_group(engine, "g", "d1", "d2")
            agents = [Agent(site, "a/d1"), Agent(site, "a/d2")]
            async with connected(*(agent.client for agent in agents)):
                for agent in agents:
                    for seqs in ((1, 2), (1, 2), (3,)):
                        batch = Batch(
                            epoch=1, samples=tuple(sample(seq, 0.1, 0.2, at=START + seq * 10) for seq in seqs)
                        )
                        await agent.client.link.publish(
                            agent.topic("telemetry"), deflated(agent.sealed(telemetry.KIND, batch))
                        )

                async def rolled_up() -> bool:
                    told_of = [
                        await told(engine, START, START + 100),
                        await told(engine, START, START + 100, scope=GROUP, names=["g"]),
                    ]
                    return [cell.counts.get("requests") for cell in told_of] == [12, 12]

                await eventually(rolled_up)
                stored = found.get_sample_value("tideline_mqtt_messages_total", {"kind": "batch", "outcome": "stored"})
                assert stored == 4.0

    asyncio.run(main())
