import socket
import subprocess
import sys

import pytest

from shared.io import free_ports
from shared.io.free_ports import find_ports, is_free
from shared.protocol.errors import Refused

HOST = "127.0.0.1"


def test_no_outgoing_connection_is_given_a_port_that_was_found() -> None:
    first = int(free_ports._RANGE_FILE.read_text().split()[0])
    assert all(find_ports(HOST) < first for _ in range(300))


def test_two_processes_that_look_at_once_find_different_ones() -> None:
    program = "from shared.io.free_ports import find_ports; print(*(find_ports('127.0.0.1') for _ in range(20)))"
    running = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    first, second, third = (set(each.communicate()[0].split()) for each in running)
    assert all((first, second, third))
    assert first.isdisjoint(second | third)
    assert second.isdisjoint(third)


def test_a_port_that_is_listened_on_or_taken_is_passed_over(monkeypatch) -> None:
    monkeypatch.setattr(free_ports.secrets, "randbelow", lambda _: 0)
    first = find_ports(HOST)
    with socket.create_server((HOST, first)):
        assert not is_free(HOST, first)
        second = find_ports(HOST, 2)
        assert second > first
        assert find_ports(HOST, 2, taken={second}) > second
    taken = set(range(free_ports._LOWEST, 2**16)) - {20_000, 20_001}
    assert find_ports(HOST, 2, taken=taken) == 20_000


def test_where_there_is_none_the_setting_is_named() -> None:
    with pytest.raises(Refused) as refused:
        find_ports(HOST, taken=set(range(2**16)), field="replica_port")
    assert refused.value.field == "replica_port"


def test_a_kernel_that_gives_nearly_all_ports_away_leaves_them_all_to_choose_from(tmp_path, monkeypatch) -> None:
    told = tmp_path / "range"
    monkeypatch.setattr(free_ports, "_RANGE_FILE", told)
    assert free_ports._end() == 32_768
    told.write_text("1024\t65535\n")
    assert free_ports._end() == 65_535
    told.write_text("40000\t60999\n")
    assert free_ports._end() == 40_000
