"""Where trust begins: the root of the enrolment, or, for a device from before there were roots, one that its cloud signed for it."""

from pathlib import Path

import msgspec
import pytest

from edge_agent.ask import lines_of
from edge_agent.control.identity import load_identity
from edge_agent.control.trust_client import kept_trust
from edge_agent.control.trust_pin import digest_of
from shared.io.signing import Signer
from shared.protocol.errors import Corrupt
from shared.protocol.trust import PIN, RootNotice, SignedRoot, TrustState
from tests.scenarios.trust.world import World, told


def _signed(notice: RootNotice, signer: Signer) -> bytes:
    payload = msgspec.json.encode(notice)
    return msgspec.json.encode(
        SignedRoot(key_id=signer.key_id, signature=signer.sign(payload), payload=payload.decode())
    )


def test_enrolment_pins_the_root(sqlite_url: str, tmp_path: Path) -> None:
    async def story(world: World) -> None:
        one = await world.publish()
        device = await world.device()
        assert device.identity.own.tuf_root == (await world.files())["root.json"].decode()
        await device.client.check(one)
        assert PIN not in device.between.asked
        report = device.client.report()
        assert report.pinned_root is not None
        assert (report.pinned_root, report.pinned_later) == (digest_of(device.identity), False)
        shown = "\n".join(lines_of({"trust": msgspec.to_builtins(report)}))
        assert "trust      fresh: root 1, snapshot 1, targets 1, timestamp 1, until " in shown
        assert f"root {report.pinned_root[:16]} pinned" in shown
        device.record.close()
        assert kept_trust(device.state, device.identity, 0.0).versions == report.versions

    told(sqlite_url, tmp_path, story)


def test_a_device_from_before_pins_once_and_shows_it(sqlite_url: str, tmp_path: Path) -> None:
    async def story(world: World) -> None:
        one = await world.publish()
        device = await world.device(with_root=False)
        assert device.client.report().state is TrustState.UNPINNED
        await device.client.check(one)
        report = device.client.report()
        assert (report.state, report.pinned_later) == (TrustState.FRESH, True)
        kept = load_identity(device.state)
        assert kept is not None
        assert kept.root_pinned_at is not None
        assert digest_of(kept) == report.pinned_root
        again = device.restarted()
        await again.client.refresh()
        assert PIN not in again.between.asked

    told(sqlite_url, tmp_path, story)


@pytest.mark.parametrize("forgery", ["key", "tenant", "kind", "text"])
def test_a_forged_root_is_not_pinned(sqlite_url: str, tmp_path: Path, forgery: str) -> None:
    async def story(world: World) -> None:
        one = await world.publish()
        await world.kept(tenant="other")
        root = (await world.files("other"))["root.json"].decode()
        notice, ours = RootNotice(kind="tuf-root", tenant="default", root=root), world.api.keys.generation
        device = await world.device(with_root=False)
        device.between.replaced[PIN] = {
            "key": _signed(notice, Signer.generate()),
            "tenant": (await world.files("other"))[PIN],
            "kind": _signed(msgspec.structs.replace(notice, kind="generation"), ours),
            "text": b"\xff{",
        }[forgery]
        with pytest.raises(Corrupt):
            await device.client.refresh()
        assert device.client.report().state is TrustState.UNPINNED
        kept = load_identity(device.state)
        assert kept is not None
        assert kept.root_pinned_at is None
        device.between.replaced = {}
        await device.client.check(one)

    told(sqlite_url, tmp_path, story)
