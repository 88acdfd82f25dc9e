"""The pool of connections against a real Postgres: how many there are, and which are kept."""

import anyio
import psycopg
import pytest
from psycopg.errors import DivisionByZero, OperationalError, ReadOnlySqlTransaction
from sqlalchemy import make_url

from syncer.store.pool import Pool, scalar
from tests.conftest import rows, until

PID = "SELECT pg_backend_pid()"


async def test_there_are_never_more_than_allowed_and_those_there_are_are_kept(database_url: str) -> None:
    seen: set[int] = set()
    async with Pool(database_url, 2) as pool:

        async def use() -> None:
            async with pool.connection() as connection:
                seen.add(await scalar(connection, PID))

        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(use)
    assert len(seen) == 2


async def test_why_there_is_none_is_told_at_once(database_url: str) -> None:
    missing = make_url(database_url).set(database="nobody_made_this").render_as_string(hide_password=False)
    with pytest.raises(OperationalError, match='"nobody_made_this" does not exist'):
        async with Pool(missing) as pool, pool.connection():
            pass


async def test_what_fails_undoes_its_transaction_and_keeps_the_connection(database_url: str) -> None:
    async with Pool(database_url, 1) as pool:
        before = await pid(pool)
        with pytest.raises(DivisionByZero):
            await do(pool, "CREATE TABLE undone ()", "SELECT 1 / 0")
        await do(pool, "CREATE TABLE done ()")
        assert await pid(pool) == before
    assert rows(database_url, "SELECT relname FROM pg_class WHERE relname IN ('done', 'undone')") == [
        ("done",)
    ]


async def test_a_broken_connection_takes_the_idle_ones_with_it(database_url: str) -> None:
    async with Pool(database_url, 2) as pool:
        async with pool.connection() as one:
            async with pool.connection() as other:
                idle = await scalar(other, PID)
            kill(database_url, await scalar(one, PID))
            kill(database_url, idle)
            with pytest.raises(OperationalError):
                await one.execute("SELECT 1")
        assert await pid(pool) != idle


async def test_a_server_that_only_reads_is_left(database_url: str) -> None:
    async with Pool(database_url, 1) as pool:
        before = await pid(pool)
        with pytest.raises(ReadOnlySqlTransaction):
            await do(pool, "SET TRANSACTION READ ONLY", "CREATE TABLE refused ()")
        assert await pid(pool) != before


async def test_who_is_cancelled_leaves_neither_a_statement_nor_a_transaction_behind(
    database_url: str,
) -> None:
    busy = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)'"
    open_ones = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
    async with Pool(database_url, 1) as pool:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(do, pool, "SELECT pg_advisory_xact_lock(7)", "SELECT pg_sleep(60)")
            await until(lambda: rows(database_url, busy) == [(1,)])
            tasks.cancel_scope.cancel()
        async with pool.connection() as connection:
            assert await scalar(connection, "SELECT 1") == 1
        await until(lambda: rows(database_url, open_ones) == [(0,)])


async def do(pool: Pool, *statements: str) -> None:
    """Carry out `statements` as one transaction."""
    async with pool.transaction() as connection:
        for statement in statements:
            await connection.execute(statement)


async def pid(pool: Pool) -> int:
    async with pool.connection() as connection:
        found: int = await scalar(connection, PID)
    return found


def kill(database_url: str, process: int) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("SELECT pg_terminate_backend(%s)", [process])
        there = "SELECT FROM pg_stat_activity WHERE pid = %s"
        while connection.execute(there, [process]).fetchone() is not None:
            pass
