"""The link against a real broker, with a control plane played by a second client."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import structlog

from edge_agent.control.link import Hooks, Link, digest_of
from edge_agent.control.state import AgentState
from shared.io.clock import SystemClock
from shared.io.deflate import inflated
from shared.io.mqtt import Outcome
from shared.io.signing import Signer
from shared.protocol import commands, desired, pressure, reported, telemetry
from shared.protocol.commands import Command, CommandResult, SignedCommand, Verb
from shared.protocol.desired import Order, SignedGeneration
from shared.protocol.enrolment import Broker, EnrolAnswer
from shared.protocol.envelope import MAX_BYTES, body_of, seal, unseal
from shared.protocol.pressure import ModelPressure, Pressure
from shared.protocol.reported import Birth, CloudState, Convergence, Death, Hardware, Reported
from shared.protocol.telemetry import Ack, Batch
from shared.protocol.topics import everyone, topic
from tests.cloud_core.broker import brokers
from tests.cloud_core.waiting import eventually

KEY = brokers.KEYS.generation
CLOCK = SystemClock()
KINDS = {
    "birth": (reported.BIRTH, Birth),
    "death": (reported.DEATH, Death),
    "reported": (reported.KIND, Reported),
    "telemetry": (telemetry.KIND, Batch),
    "command-result": (commands.RESULT, CommandResult),
}


class Cloud(brokers.Client):
    """Keeps what the device says, decoded, and speaks for the control plane."""

    def said(self, name: str) -> list[object]:
        kind, into = KINDS[name]
        payloads = [each.payload for each in self.received if each.where.row.name == name]
        return [body_of(unseal(inflated(each, most=MAX_BYTES)), kind, into) for each in payloads]

    async def say(self, name: str, kind: str, body: object, *, retain: bool = False) -> None:
        data = seal(kind, body, id="1", now=CLOCK.wall())
        await self.link.publish(topic(name, tenant="default", device="lamp"), data, retain=retain)

    async def command(self, verb: Verb, id: str, *, key: Signer = KEY, device: str = "lamp", life: float = 60) -> None:
        now = CLOCK.wall()
        command = Command(id=id, tenant="default", device=device, verb=verb, issued_at=now, expires_at=now + life)
        payload = msgspec.json.encode(command)
        signed = SignedCommand(key_id=key.key_id, signature=key.sign(payload), payload=payload.decode())
        await self.say("command", commands.KIND, signed)


class World:
    def __init__(self, site: brokers.Site, folder: Path) -> None:
        self.state = AgentState(folder)
        self.generations: list[SignedGeneration] = []
        self.acks: list[Ack] = []
        self.pressures: list[Pressure] = []
        self.connections = 0
        self.counts: dict[tuple[str, Outcome], int] = {}
        self.report = Reported(
            epoch=0, seq=0, at=0.0, applied=None, target=None, convergence=Convergence.NONE, models=()
        )
        self.own = EnrolAnswer(
            tenant="default",
            device="lamp",
            keys=(KEY.pinned,),
            tuf_root=None,
            broker=Broker(host="127.0.0.1", port=site.port, username="default/lamp", password=brokers.PASSWORD),
            api_url="",
            gateway_url="",
        )
        self.link = self.new_link()
        self.cloud = Cloud(
            site.server("cloud-core", client_id="cloud-core/loops"),
            subscribe=tuple(everyone(name) for name in KINDS),
        )

    def new_link(self) -> Link:
        async def generation(signed: SignedGeneration) -> None:
            self.generations.append(signed)

        async def acknowledged(ack: Ack) -> None:
            self.acks.append(ack)

        def connected() -> None:
            self.connections += 1

        def count(name: str, outcome: Outcome) -> None:
            self.counts[name, outcome] = self.counts.get((name, outcome), 0) + 1

        return Link(
            self.own,
            Hooks(generation, lambda: self.report, acknowledged, self.pressures.append, connected),
            state=self.state,
            hardware=Hardware(hardware_class="x", machine="x", cpus=1, memory_bytes=1),
            agent_version="0.1.0",
            keepalive=5,
            clock=CLOCK,
            log=structlog.get_logger(),
            draw=random.random,
            count=count,
        )

    async def until(self, condition: Callable[[], object]) -> None:
        async def met() -> bool:
            return bool(condition())

        await eventually(met)


def in_world(folder: Path, test: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        async with (
            brokers.database(folder, "default/lamp") as engine,
            brokers.running("embedded", folder, engine) as site,
        ):
            world = World(site, folder)
            tasks = [asyncio.create_task(world.cloud.link.run())]
            try:
                await world.until(lambda: world.cloud.births)
                tasks += [
                    asyncio.create_task(world.link.run()),
                    asyncio.create_task(world.link.report_forever()),
                ]
                await asyncio.wait_for(test(world), 30)
            finally:
                await world.link.close()
                await world.cloud.link.close()
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                world.state.close()

    asyncio.run(main())


def test_birth_then_the_whole_report_and_again_when_it_changes(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.until(lambda: world.cloud.said("reported"))
        (birth,) = world.cloud.said("birth")
        first = world.cloud.said("reported")[0]
        assert isinstance(birth, Birth)
        assert isinstance(first, Reported)
        assert birth.epoch == first.epoch == world.link.epoch > 0
        assert birth.state_digest == first.state_digest == digest_of(world.report)
        world.report = msgspec.structs.replace(world.report, applied=Order(1, 2), convergence=Convergence.APPLIED)
        world.link.changed()
        await world.until(lambda: len(world.cloud.said("reported")) > 1)
        second = world.cloud.said("reported")[-1]
        assert isinstance(second, Reported)
        assert (second.epoch, second.applied) == (first.epoch, Order(1, 2))
        assert second.seq > first.seq
        assert second.state_digest != first.state_digest

    in_world(tmp_path, test)


def test_what_the_cloud_says_is_handed_on(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        signed = SignedGeneration(key_id="k", signature="s", payload="{}")
        await world.until(lambda: world.connections)
        assert not world.link.control_plane_online
        await world.cloud.say("desired", desired.KIND, signed)
        await world.cloud.say("telemetry-ack", telemetry.ACK, Ack(epoch=1, seq=4))
        told = Pressure(models={"m": ModelPressure(expected_wait_s=1.0, admit_fraction=0.5)}, valid_until=9e9)
        await world.cloud.say("pressure", pressure.KIND, told)
        await world.cloud.say("state", reported.STATE, CloudState(online=True, at=CLOCK.wall(), epoch=3))
        await world.until(lambda: world.link.control_plane_online)
        await world.until(lambda: world.generations and world.acks and world.pressures)
        assert (world.generations, world.acks, world.pressures) == ([signed], [Ack(epoch=1, seq=4)], [told])
        assert world.link.silent_for(0.0) == 0.0
        await world.cloud.say("state", reported.STATE, CloudState(online=False, at=CLOCK.wall(), epoch=2))
        await world.cloud.say("telemetry-ack", telemetry.ACK, Ack(epoch=1, seq=5))
        await world.until(lambda: len(world.acks) == 2)
        assert world.link.control_plane_online  # the will of an older control plane says nothing

    in_world(tmp_path, test)


def test_commands_are_obeyed_only_when_they_are_ours_and_in_time(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.until(lambda: world.cloud.said("reported"))
        before = len(world.cloud.said("reported"))
        await world.cloud.command(Verb.REPORT, "forged", key=Signer.generate())
        await world.cloud.command(Verb.REPORT, "late", life=-1)
        await world.cloud.command(Verb.REPORT, "other", device="oven")
        await world.cloud.link.publish(topic("command", tenant="default", device="lamp"), b"{nonsense")
        await world.until(lambda: world.counts.get(("command", Outcome.REFUSED)) == 4)
        assert len(world.cloud.said("reported")) == before
        await world.cloud.command(Verb.REPORT, "c1")
        await world.cloud.command(Verb.COLLECT_LOGS, "c2")
        await world.until(lambda: len(world.cloud.said("command-result")) == 2)
        results = {result.id: result.ok for result in world.cloud.said("command-result")}  # type: ignore[attr-defined]
        assert results == {"c1": True, "c2": False}
        await world.until(lambda: len(world.cloud.said("reported")) > before)

    in_world(tmp_path, test)


def test_a_clean_goodbye_is_said_once_and_a_lost_connection_by_the_broker(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.until(lambda: world.connections)
        first = world.link.epoch
        await world.link.close()
        await world.until(lambda: world.cloud.said("death"))
        assert world.cloud.said("death") == [Death(epoch=first)]
        world.link = world.new_link()
        running = asyncio.create_task(world.link.run())
        await world.until(lambda: len(world.cloud.said("birth")) == 2)
        assert world.link.epoch > first
        running.cancel()  # no farewell: the broker speaks the will of this connection
        await world.until(lambda: len(world.cloud.said("death")) == 2)
        assert world.cloud.said("death")[-1] == Death(epoch=world.link.epoch)

    in_world(tmp_path, test)
