"""The control plane's own secrets: made once, kept in files of mode 0600 under the data folder."""

import secrets
from pathlib import Path
from typing import NamedTuple

from shared.io.durable import folder_of, write_durably
from shared.io.signing import Signer

SERVICE_USER = "cloud-core"
"""MQTT username of the control plane's own connections; client ids are `cloud-core/<role>`."""


class Keys(NamedTuple):
    """`generation` signs desired state and commands, `access` the JWTs; `broker_password` is for `SERVICE_USER`."""

    generation: Signer
    access: Signer
    broker_password: str


def load_or_create(folder: Path) -> Keys:
    """The secrets in `folder`; missing ones are made, durably, before anybody can rely on them.

    Raises:
        Refused: the folder cannot be made.

    """
    folder_of("data_dir", folder, mode=0o700)
    return Keys(
        generation=Signer.from_bytes(_kept(folder / "generation.key", Signer.generate().to_bytes())),
        access=Signer.from_bytes(_kept(folder / "access.key", Signer.generate().to_bytes())),
        broker_password=_kept(folder / "broker.password", secrets.token_urlsafe(32).encode()).decode(),
    )


def _kept(path: Path, fresh: bytes) -> bytes:
    if not path.exists():
        write_durably(path, fresh, mode=0o600)
    return path.read_bytes()
