"""The migrations make what the tables' classes say, and can be run by several at once."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from syncer.store.schema import VERSION, difference, migrate, migrations
from tests.conftest import Program, rows

CHECKOUT = Path(__file__).parent.parent


def alembic(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "alembic", *arguments], cwd=CHECKOUT, env=os.environ | {"DATABASE_URL": url},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_version_is_the_newest_migration() -> None:
    config = Config()
    config.set_main_option("script_location", str(migrations()))
    assert ScriptDirectory.from_config(config).get_heads() == [VERSION]


def test_models_and_migrations_agree(database_url: str) -> None:
    checked = alembic(database_url, "check")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_down_and_up_again(database_url: str) -> None:
    assert alembic(database_url, "downgrade", "base").returncode == 0
    left = rows(database_url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    assert left == [("alembic_version",)]
    asyncio.run(migrate(database_url))
    assert alembic(database_url, "check").returncode == 0


async def test_two_at_once_wait_for_each_other(empty_database_url: str, tmp_path: Path) -> None:
    program = Program(tmp_path, DATABASE_URL=empty_database_url)
    done = await asyncio.gather(*(program("migrate") for _ in range(3)))
    assert [each.exit for each in done] == [0, 0, 0], [each.stderr for each in done]
    assert rows(empty_database_url, "SELECT version_num FROM alembic_version") == [(VERSION,)]


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (None, "no syncer tables yet"),
        ("0001", "run `syncer migrate`"),
        ("9999", "newer than"),
        (VERSION, None),
    ],
)
def test_what_is_wrong_with_a_version(found: str | None, words: str | None) -> None:
    told = difference(found)
    assert told is None if words is None else words in str(told)


async def test_a_newer_schema_is_left_alone(program: Program, database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    done = await program("migrate")
    assert done.exit == 78
    assert "newer" in done.stderr
