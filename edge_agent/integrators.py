"""Builds what answers integrators over MQTT, where a setting names a broker for them."""

import random
import ssl

from edge_agent.parts import Core
from edge_agent.serving.mqtt_site import MqttSite, Named
from shared.io.mqtt import Server
from shared.protocol.errors import Refused
from shared.serving.faces.context import Ports
from shared.serving.faces.mqtt import MqttFace


def site_of(core: Core, ports: Ports, *, alone: str | None) -> MqttSite | None:
    """The integrators' site; `alone` is the tenant of a device that is never enrolled, None where it has to wait for its name.

    Raises:
        Refused: the certificates cannot be read.

    """
    settings = core.settings
    if not settings.mqtt_infer_url:
        return None
    host, port, secure = settings.infer_broker()

    async def named() -> Named:
        if alone is not None:
            return Named(alone, settings.mqtt_infer_device)
        await core.standing.named.wait()
        return Named(core.standing.tenant, core.standing.device)

    server = Server(
        host,
        port,
        settings.mqtt_infer_username,
        settings.mqtt_infer_password,
        # A name nobody else has: brokers throw out the older connection of a client id.
        client_id=f"tideline-{random.getrandbits(64):016x}",
        keepalive=settings.mqtt_keepalive_s,
        tls=_tls(settings.mqtt_infer_ca) if secure else None,
    )
    return MqttSite(
        server,
        MqttFace(ports, core.log),
        named,
        in_flight=settings.mqtt_infer_in_flight,
        count=core.metrics.message,
        clock=core.clock,
        log=core.log,
        draw=random.random,
    )


def _tls(ca: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca or None)
    except OSError as error:
        allowed = "a PEM file of certificates"
        raise Refused("bad setting", field="mqtt_infer_ca", value=ca, allowed=allowed) from error
