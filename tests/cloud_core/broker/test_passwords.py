"""MQTT passwords in Mosquitto's own form."""

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_core.broker.passwords import check_password, hash_password, new_password


@given(st.text(max_size=40), st.text(max_size=40))
def test_only_the_same_password_matches(one: str, other: str) -> None:
    stored = hash_password(one)
    assert check_password(one, stored)
    assert check_password(other, stored) == (one == other)


@given(st.text(max_size=60))
def test_any_text_is_no_match_and_no_error(stored: str) -> None:
    assert not check_password("x", stored)
    assert not check_password("x", f"$7${stored}")
    assert not check_password("x", f"$7$101${stored}$")


def test_the_same_password_is_stored_differently() -> None:
    password = new_password()
    assert len(password) >= 43
    assert hash_password(password) != hash_password(password)


@pytest.mark.skipif(shutil.which("mosquitto_passwd") is None, reason="Mosquitto's own program is not installed")
def test_mosquitto_writes_what_we_read(tmp_path: Path) -> None:
    file = tmp_path / "passwords"
    subprocess.run(["mosquitto_passwd", "-b", "-c", str(file), "user", "secret"], check=True, capture_output=True)
    stored = file.read_text().strip().partition(":")[2]
    assert check_password("secret", stored)
    assert not check_password("Secret", stored)
