"""Builds the ways on which a device gets manifests, chunks and metadata, as `transport` says."""

from collections.abc import Callable
from typing import NamedTuple

from edge_agent.config import Transport
from edge_agent.control.fetch import Fetcher, Source
from edge_agent.control.fetch_either import EitherSource
from edge_agent.control.fetch_http import HttpSource
from edge_agent.control.fetch_mqtt import MqttSource
from edge_agent.control.identity import AccessTokens
from edge_agent.control.link import Link
from edge_agent.parts import Core
from shared.protocol.content import Get


class Ways(NamedTuple):
    """What fetches, and what of it hangs on the link; `mqtt` is None where nothing does."""

    fetcher: Fetcher
    mqtt: MqttSource | None

    async def run(self) -> None:
        """Ask over MQTT for what is wanted, for ever."""
        if self.mqtt is not None:
            await self.mqtt.run()


def ways_of(core: Core, api_url: str, tokens: AccessTokens, link: Callable[[], Link]) -> Ways:
    """The ways of an enrolled device; its link is asked for once something is fetched."""
    settings, clock, log = core.settings, core.clock, core.log

    async def send(row: str, get: Get) -> None:
        await link().ask(row, get)

    http = HttpSource(core.http, api_url=api_url, tokens=tokens)
    mqtt = MqttSource(send, clock=clock, log=log, part_bytes=settings.mqtt_part_bytes)
    source: Source
    match settings.transport:
        case Transport.HTTP:
            source = http
        case Transport.MQTT:
            source = mqtt
        case Transport.AUTO:
            source = EitherSource(http, mqtt, connected=lambda: link().connected, clock=clock, log=log)
    fetcher = Fetcher(source, clock=clock, slowest=settings.download_min_bytes_per_s)
    return Ways(fetcher, None if settings.transport is Transport.HTTP else mqtt)
