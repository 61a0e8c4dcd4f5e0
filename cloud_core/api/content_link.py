"""The API process's connection to the broker, over which it serves content to devices that have only MQTT."""

import random

from cloud_core.api.content_desk import ContentDesk
from cloud_core.broker.service import service_server
from cloud_core.config import Settings
from cloud_core.keys import Keys
from shared.io.clock import Clock
from shared.io.logs import Log
from shared.io.mqtt import MqttLink, Will
from shared.io.program import Program
from shared.protocol import content
from shared.protocol.topics import everyone

SHARED = "$share/content/"
"""Each request goes to one of the API's processes; the embedded broker knows no shared subscriptions, and there is one process."""


def serve_content(settings: Settings, keys: Keys, desk: ContentDesk, *, program: Program, clock: Clock) -> None:
    """Have `program` run the desk and its link."""
    link = content_link(settings, keys, desk, clock=clock, log=program.log)
    program.task("content", lambda: desk.run(link.publish))
    program.task("mqtt", link.run)
    program.on_stop("mqtt", link.close)


def content_link(settings: Settings, keys: Keys, desk: ContentDesk, *, clock: Clock, log: Log) -> MqttLink:
    """The link that hands `desk` what is asked; the caller runs both."""
    shared = "" if settings.mqtt_embedded else SHARED

    async def no_will() -> Will | None:
        return None

    async def subscribe() -> None:
        await link.subscribe(*(shared + everyone(row) for row in content.KINDS))

    link = MqttLink(
        service_server(settings, keys, "api"),
        will=no_will,
        on_connected=subscribe,
        handlers=desk.handlers,
        count=desk.count,
        log=log,
        clock=clock,
        draw=random.SystemRandom().random,
    )
    return link
