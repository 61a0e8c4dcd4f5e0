"""Where fleetctl's API is and as whom it speaks: flags, `FLEETCTL_*`, the file that `login` writes, defaults."""

import os
from pathlib import Path

import msgspec

from shared.io.durable import write_durably
from shared.protocol.envelope import decoded
from shared.protocol.errors import Refusal, Refused

DEFAULT_URL = "http://127.0.0.1:8080"


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """What `login` keeps; `token` is a bearer token, so the file has mode 0600."""

    url: str
    token: str
    tenant: str = "default"
    name: str = ""
    expires_at: float | None = None


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Whom to call: `token` None is nobody yet."""

    url: str
    token: str | None
    file: Path


def read(*, url: str | None, file: Path | None) -> Target:
    """The target from flags, environment, file and defaults, in this order.

    Raises:
        Refused: the file is there and cannot be understood.

    """
    chosen = file if file is not None else _default_file()
    session = _session(chosen)
    url = url or os.environ.get("FLEETCTL_URL") or (session.url if session else DEFAULT_URL)
    token = os.environ.get("FLEETCTL_TOKEN")
    # A token is told only to the server that gave it.
    if token is None and session is not None and session.url.rstrip("/") == url.rstrip("/"):
        token = session.token
    return Target(url=url.rstrip("/"), token=token, file=chosen)


def keep(file: Path, session: Session) -> None:
    """Write the session where only its owner reads it."""
    write_durably(file, msgspec.json.format(msgspec.json.encode(session)), mode=0o600)


def _default_file() -> Path:
    home = os.environ.get("XDG_CONFIG_HOME")
    return (Path(home) if home else Path.home() / ".config") / "tideline" / "fleetctl.json"


def _session(file: Path) -> Session | None:
    try:
        return decoded(file.read_bytes(), Session)
    except FileNotFoundError:
        return None
    except (OSError, Refused) as error:
        raise Refused(
            f"the session file cannot be read: {error}",
            kind=Refusal.MALFORMED,
            field="--config",
            value=str(file),
            allowed="a file that `fleetctl login` wrote",
        ) from error
