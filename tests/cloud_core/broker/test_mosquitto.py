"""Mosquitto's files: made of the same rows, written only when something changed."""

from pathlib import Path

from cloud_core.broker.mosquitto import ACCESS, PASSWORDS, conf, provision, reload
from cloud_core.broker.passwords import check_password, hash_password
from cloud_core.store.devices import Credential


def test_files_change_only_when_devices_do(tmp_path: Path) -> None:
    rows = [Credential(tenant="a", device=name, mqtt_password_hash=hash_password(name)) for name in ("d2", "d1")]
    strange = Credential(tenant="cloud-core", device="loops", mqtt_password_hash=hash_password("stolen"))
    assert provision(tmp_path, [*rows, strange], service_password="secret")
    assert not provision(tmp_path, rows[::-1], service_password="secret")
    stored = dict(line.split(":", 1) for line in (tmp_path / PASSWORDS).read_text().splitlines())
    roles = {f"cloud-core/{role}" for role in ("api", "gateway", "loops", *(f"ingest-{n}" for n in range(1, 5)))}
    assert set(stored) == {"cloud-core", *roles, "a/d1", "a/d2"}
    assert check_password("secret", stored["cloud-core/loops"])
    assert provision(tmp_path, rows[:1], service_password="secret")
    assert "a/d1" not in (tmp_path / ACCESS).read_text()
    assert provision(tmp_path, rows[:1], service_password="changed")


def test_the_configuration_ties_connections_to_their_users() -> None:
    text = conf(Path("/etc/tideline"), host="0.0.0.0", port=1883, pid_file="/run/mosquitto.pid")
    assert "allow_anonymous false" in text
    assert "use_username_as_clientid true" in text
    assert "acl_file /etc/tideline/access" in text
    assert "pid_file /run/mosquitto.pid" in text


def test_a_reload_without_a_process_says_so(tmp_path: Path) -> None:
    assert not reload(tmp_path / "missing")
    (tmp_path / "pid").write_text("not a number")
    assert not reload(tmp_path / "pid")
