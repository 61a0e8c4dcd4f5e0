"""The first start, and what the control plane's own command line makes."""

import asyncio
import re
from pathlib import Path

import pytest

from cloud_core.config import Settings
from cloud_core.keys import load_or_create
from cloud_core.store import commands, tenants, users
from cloud_core.store.database import open_database, read
from shared.protocol.errors import Refusal, Refused


def test_the_first_start_happens_once(database_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        settings = Settings(data_dir=str(tmp_path), database_url=database_url)
        keys = load_or_create(settings.secrets)
        engine = open_database(database_url)
        found = await asyncio.gather(*(commands.ensure_first_run(engine, settings, keys, 1.0) for _ in range(3)))
        (password,) = [password for password in found if password is not None]
        assert len(password) >= 20
        assert await commands.ensure_first_run(engine, settings, keys, 2.0) is None
        async with read(engine) as connection:
            assert await tenants.every_name(connection) == ["default"]
            login = await users.login(connection, "default", "admin")
        assert login is not None
        assert login.role == "admin"
        assert password not in login.password_hash
        await engine.dispose()

    asyncio.run(scenario())


def test_users_and_tokens(sqlite_url: str) -> None:
    async def scenario() -> None:
        engine = open_database(sqlite_url)

        async def user(**changes: str) -> str:
            given = {"tenant": "shop", "name": "ann", "role": "viewer", "password": "", **changes}
            return await commands.add_user(engine, **given, now=1.0)  # type: ignore[arg-type]

        async def token(**changes: object) -> str:
            given = {"tenant": "shop", "name": "robot", "role": "client", "valid_s": None, **changes}
            return await commands.create_token(engine, **given, now=1.0)  # type: ignore[arg-type]

        with pytest.raises(Refused) as caught:
            await token()
        assert caught.value.kind is Refusal.NOT_FOUND
        assert len(await user()) >= 20
        assert await user(name="bob", password="long enough") == "long enough"
        assert re.fullmatch(r"tdl_[A-Za-z0-9_-]{43}", await token())
        for bad in ({"name": "ann"}, {"role": "device"}, {"role": "king"}, {"password": "short"}, {"tenant": "*"}):
            with pytest.raises(Refused):
                await user(**{"name": "new", **bad})
        for wrong in ({"name": "a/b"}, {"role": "device"}, {"valid_s": 0.0}):
            with pytest.raises(Refused):
                await token(**wrong)
        await engine.dispose()

    asyncio.run(scenario())
