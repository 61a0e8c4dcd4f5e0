"""`fleetctl models diff` of two versions that differ in their classifier head alone, for every variant that is shipped."""

import asyncio
from pathlib import Path

from cloud_core.models.chunking import MOST
from tests.cloud_core.api.server import running
from tests.cloud_core.ctl.shell import Shell
from tests.cloud_core.models.another_head import shipped_manifest, write_bundle


def test_another_head_moves_at_most_a_twentieth(sqlite_url: str, tmp_path: Path) -> None:
    write_bundle(tmp_path / "one", "1.0.0", other_head=False)
    write_bundle(tmp_path / "two", "1.1.0", other_head=True)
    names = [variant.name for variant in shipped_manifest().variants]
    assert {"cpu-fp32", "cpu-int8"} <= set(names)

    async def scenario() -> None:
        async with running(sqlite_url, tmp_path) as api:
            fleetctl = Shell(api.url, tmp_path, FLEETCTL_TOKEN=api.admin.token or "")
            for name in ("one", "two"):
                published = await fleetctl("models", "publish", str(tmp_path / name))
                assert published.status == 0, published
            ran = await fleetctl("models", "diff", "sentiment-zh@1.0.0", "sentiment-zh@1.1.0", "--json")
            assert ran.status == 0, ran
            found = ran.json["variants"]
            assert [one["variant"] for one in found] == names
            for one in found:
                assert one["known"]
                assert 0 < one["moved"] <= MOST * one["size"], one
                assert one["share"] <= MOST
            shown = await fleetctl("models", "diff", "sentiment-zh@1.0.0", "sentiment-zh@1.1.0")
            assert all(f"{one['share']:.1%}" in shown.out for one in found)

    asyncio.run(scenario())
