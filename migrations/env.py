"""Alembic's entry: runs the migrations on the database whose URL it is given, or on the configured one.

The one place outside an `app.py` that builds an engine and reads settings, because Alembic calls it and not the reverse.
"""

import asyncio

from alembic import context
from sqlalchemy import Connection

from cloud_core import config as settings
from cloud_core.store import rollout_tables as tables
from cloud_core.store.database import open_database


def run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=tables.metadata,
        compare_type=True,
        render_as_batch=connection.dialect.name == "sqlite",
    )
    with context.begin_transaction():
        context.run_migrations()


async def run_online() -> None:
    url = context.config.attributes.get("url") or settings.read({}).database_url
    engine = open_database(url).execution_options(tideline_write=True)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(run)
    finally:
        await engine.dispose()


if context.is_offline_mode():
    context.configure(
        url=context.config.attributes.get("url") or settings.read({}).database_url,
        target_metadata=tables.metadata,
        literal_binds=True,
    )
    with context.begin_transaction():
        context.run_migrations()
else:
    asyncio.run(run_online())
