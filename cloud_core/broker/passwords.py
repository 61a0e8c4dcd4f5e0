"""MQTT passwords in the form of Mosquitto's password file, so that amqtt and Mosquitto check the same text.

`$7$iterations$salt$hash`: PBKDF2-HMAC-SHA512, a 12-byte salt and a 64-byte hash in base64. The passwords have 256 random
bits, so Mosquitto's own small number of iterations is enough and a reconnecting fleet does not stall the broker.
"""

import base64
import binascii
import hashlib
import hmac
import secrets

ITERATIONS = 101
_MAX_ITERATIONS = 1_000_000
_SALT_BYTES = 12
_HASH_BYTES = 64


def new_password() -> str:
    """A fresh password: 32 random bytes, URL-safe."""
    return secrets.token_urlsafe(32)


def hash_password(password: str) -> str:
    """What is stored of `password`."""
    salt = secrets.token_bytes(_SALT_BYTES)
    derived = _derive(password, salt, ITERATIONS, _HASH_BYTES)
    return f"$7${ITERATIONS}${base64.b64encode(salt).decode()}${base64.b64encode(derived).decode()}"


def check_password(password: str, stored: str) -> bool:
    """Whether `password` is the one `stored` was made of; False for a `stored` of another form."""
    parts = stored.split("$")
    if len(parts) != 5 or parts[:2] != ["", "7"] or not parts[2].isdecimal():
        return False
    iterations = int(parts[2])
    try:
        salt, expected = (base64.b64decode(part, validate=True) for part in parts[3:])
    except (binascii.Error, ValueError):
        return False
    if not 0 < iterations <= _MAX_ITERATIONS or not expected:
        return False
    return hmac.compare_digest(_derive(password, salt, iterations, len(expected)), expected)


def _derive(password: str, salt: bytes, iterations: int, size: int) -> bytes:
    return hashlib.pbkdf2_hmac("sha512", password.encode(), salt, iterations, dklen=size)
