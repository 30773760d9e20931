"""The schema's history, and the one command that brings a database up to date.

Each revision in `versions` is written once and never changed; a test holds that all of them
together give exactly `server.storage.tables`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from server.storage.failures import mapped_errors

HEAD: Final = "0002"

_HAS_VERSION: Final = "SELECT count(*) FROM sqlite_master WHERE name = 'alembic_version'"


def migrate(path: Path) -> bool:
    """Bring the database at `path` to this version's schema, making it when it is not there.

    Returns whether anything was done.

    Raises:
        Outage: the disk failed; the old schema is whole.
        Damaged: the file is no database any more.
    """
    with mapped_errors(path):
        return _migrate(path)


def _migrate(path: Path) -> bool:
    # Alembic is slow to import and only this command needs it.
    from alembic import command
    from alembic.config import Config
    from sqlalchemy import create_engine, event, text

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    engine = create_engine(f"sqlite:///{path}")

    # One transaction for all of it: a failed revision leaves the old schema whole.
    @event.listens_for(engine, "connect")
    def by_hand(raw: object, _record: object) -> None:
        setattr(raw, "isolation_level", None)  # noqa: B010 (sqlite3 types it read-only)

    try:
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")
            connection.commit()
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            if connection.exec_driver_sql(_HAS_VERSION).scalar():
                version = connection.execute(text("SELECT version_num FROM alembic_version"))
                if version.scalar() == HEAD:
                    connection.rollback()
                    return False
            config.attributes["connection"] = connection
            command.upgrade(config, HEAD)
            connection.commit()
    finally:
        engine.dispose()
    return True
