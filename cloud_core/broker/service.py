"""How the control plane's own processes reach the broker."""

from cloud_core.broker.principal import service_name
from cloud_core.config import Settings
from cloud_core.keys import Keys
from shared.io.mqtt import Server

KEEPALIVE_S = 10


def service_server(settings: Settings, keys: Keys, role: str) -> Server:
    """Connection of the process `role` ("loops", "gateway"): username and client id are `cloud-core/<role>`."""
    return Server(
        host=settings.mqtt_host,
        port=settings.mqtt_port,
        username=service_name(role),
        password=keys.broker_password,
        keepalive=KEEPALIVE_S,
    )
