"""The writer against a real Postgres: several at once, rows that are refused, answers that come late."""

import random
import re
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import psycopg
import pytest
from psycopg.errors import CheckViolation

from syncer.answers import Connection, ConnectionType, Failure, Fetched, Found, Missing
from syncer.identifiers import Item
from syncer.ledger import Ledger, Settlement
from syncer.outcomes import Outcome
from syncer.partner_central.population import Population
from syncer.store import runs
from syncer.store.pool import Pool
from syncer.store.writer import Scope, Writer
from tests.conftest import PATIENCE, Program, Recording, ids_file, rows, served, until
from tests.test_listing import assert_history_is_whole
from tests.test_sync import assert_in_step

T0 = datetime(2026, 1, 1, tzinfo=UTC)


def found(number: int, *, version: int = 0, asked: int = 0) -> Found:
    """Connection `number` in its `version`; participants are shared between all."""
    identifier = f"pac-{number:013d}"
    each = ConnectionType(
        "SUBSIDIARY", "ACTIVE", T0, "i@x.example", "I", None, None, "Account", f"p{number % 7}", f"v{version}"
    )
    return Found(
        Item(0, identifier),
        T0 + timedelta(seconds=asked),
        Connection(identifier, f"arn:{version}", "0" * 12, T0 + timedelta(seconds=version), (each,)),
    )


def gone(number: int, *, asked: int) -> Missing:
    """There is no connection `number`."""
    return Missing(Item(0, f"pac-{number:013d}"), T0 + timedelta(seconds=asked))


async def writer(pool: Pool) -> tuple[Writer, Ledger]:
    scope, ledger = Scope(runs.new_id(T0), "000000000009", "AWS"), Ledger()
    await runs.start(pool, scope, runs.Beginning("queue", T0))

    async def committed(_: Settlement) -> None:
        pass

    return Writer(pool, scope, ledger, now=lambda: T0, sleep=anyio.sleep, committed=committed), ledger


async def write(one: tuple[Writer, Ledger], answers: list[Fetched]) -> None:
    """Write `answers` as one batch, each as an item of its own."""
    read = []
    for answer in answers:
        item = Item(one[1].tally.read, answer.item.identifier)
        one[1].read(item)
        read.append(
            Missing(item, answer.asked_at)
            if isinstance(answer, Missing)
            else Found(item, answer.asked_at, answer.connection)
        )
    await one[0].write(read)


async def test_writers_at_once_neither_deadlock_nor_let_an_older_answer_win(database_url: str) -> None:
    pool = Pool(database_url, connections=8)
    newest = 5

    async def work(seed: int) -> None:
        dice = random.Random(seed)
        one = await writer(pool)
        for _ in range(12):
            numbers = dice.sample(range(120), 60)
            await write(
                one,
                [
                    found(number, version=dice.randint(0, newest), asked=dice.randint(0, 99))
                    for number in numbers
                ],
            )

    async with anyio.create_task_group() as writers:
        for seed in range(4):
            writers.start_soon(work, seed)
    last = await writer(pool)
    await write(last, [found(number, version=newest, asked=100) for number in range(120)])
    await pool.close()
    assert rows(database_url, "SELECT DISTINCT arn FROM connection") == [(f"arn:{newest}",)]
    assert set(rows(database_url, "SELECT name, connection_id FROM participant")) == {
        (f"v{newest}", f"pac-{max(n for n in range(120) if n % 7 == kind):013d}") for kind in range(7)
    }
    assert rows(
        database_url, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    ) == [(0,)]
    assert_history_is_whole(database_url)


SEVEN = [f"pac-{number:013d}" for number in range(7)]
SOMEBODYS = {
    "changed": ("connection", "id", SEVEN),
    "named": ("participant", "id", [f"p{number}" for number in range(7)]),
    "failed": ("sync_failure", "identifier", SEVEN),
    "cleared": ("sync_failure", "identifier", SEVEN),
}


@pytest.mark.parametrize("what", SOMEBODYS)
async def test_rows_are_locked_in_the_order_of_their_keys(database_url: str, what: str) -> None:
    """Whoever waits for the first holds none of the others, in whatever order they lie and come."""
    table, key, keys = SOMEBODYS[what]
    pool = Pool(database_url)
    one = await writer(pool)
    for number in reversed(range(7)):
        await write(one, [found(number)])
        if table == "sync_failure":
            await one[0].write([failed(one[1], number)])
    with psycopg.connect(database_url, autocommit=True) as database:
        for scan in ("indexscan", "bitmapscan"):
            database.execute(f"ALTER DATABASE {database.info.dbname} SET enable_{scan} = off".encode())
    await pool.close()

    async def act() -> None:
        if what == "failed":
            await one[0].write([failed(one[1], number) for number in reversed(range(7))])
        else:
            await write(one, [found(number, version=1, asked=1) for number in reversed(range(7))])

    with psycopg.connect(database_url) as somebody, psycopg.connect(database_url) as else_:
        somebody.execute(f"SELECT FROM {table} WHERE {key} = '{keys[0]}' FOR UPDATE".encode())
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(act)
            await until_somebody_waits(database_url)
            free = else_.execute(f"SELECT {key} FROM {table} FOR UPDATE SKIP LOCKED".encode()).fetchall()
            else_.rollback()
            somebody.rollback()
    await pool.close()
    assert sorted(each for (each,) in free) == keys[1:]


async def test_rows_are_added_in_the_order_of_their_keys(database_url: str) -> None:
    pool = Pool(database_url)
    one = await writer(pool)
    with psycopg.connect(database_url) as somebody, psycopg.connect(database_url) as else_:
        add(somebody, 0)
        async with anyio.create_task_group() as tasks:
            answers: list[Fetched] = [found(number) for number in reversed(range(7))]
            tasks.start_soon(write, one, answers)
            await until_somebody_waits(database_url)
            else_.execute("SET lock_timeout = '5s'")
            for number in range(1, 7):
                add(else_, number)
            else_.rollback()
            somebody.rollback()
    await pool.close()
    assert one[1].tally[Outcome.WRITTEN] == 7


MEANWHILE = {
    "changed": ("FOR NO KEY UPDATE", "UPDATE connection SET updated_at = %s, arn = 'arn:3'"),
    "added": (
        "INSERT INTO connection (",
        """INSERT INTO connection (account_id, catalog, id, arn, other_participant_account_id, updated_at,
                                   first_seen_at, synced_at)
           VALUES ('000000000009', 'AWS', 'pac-0000000000001', 'arn:3', '000000000000', %s, now(), now())""",
    ),
    "named": (
        "INSERT INTO participant",
        """INSERT INTO participant (account_id, catalog, kind, id, name, connection_id, updated_at)
           VALUES ('000000000009', 'AWS', 'Account', 'p1', 'v3', 'pac-0000000000001', %s)
           ON CONFLICT (account_id, catalog, kind, id) DO UPDATE
           SET name = excluded.name, updated_at = excluded.updated_at""",
    ),
}


@pytest.mark.parametrize("what", MEANWHILE)
async def test_what_others_commit_between_the_look_and_the_write_is_not_overwritten(
    database_url: str, what: str
) -> None:
    """Connection 1 is stored as of version 1, unless it is new; we write version 2 when 3 is there."""
    before, statement = MEANWHILE[what]
    pool = Recording(database_url)
    one = await writer(pool)
    if what != "added":
        await write(one, [found(1, version=1)])
    done = False

    def meanwhile(sql: str) -> None:
        nonlocal done
        if before in sql and not done:
            done = True
            with psycopg.connect(database_url) as somebody:
                somebody.execute(statement.encode(), [T0 + timedelta(seconds=3)])

    pool.before = meanwhile
    await write(one, [found(1, version=2, asked=1)])
    await pool.close()
    assert done
    if what == "named":
        assert rows(database_url, "SELECT name FROM participant") == [("v3",)]
    else:
        assert one[1].tally[Outcome.STALE] == 1
        assert rows(database_url, "SELECT arn FROM connection") == [("arn:3",)]


def failed(ledger: Ledger, number: int) -> Failure:
    """A failure of connection `number`, read as an item of its own."""
    item = Item(ledger.tally.read, f"pac-{number:013d}")
    ledger.read(item)
    return Failure(item, Outcome.FAILED, "Why", "because", attempts=1)


def add(database: psycopg.Connection[Any], number: int) -> None:
    """Add connection `number`, as another worker would."""
    database.execute(
        """INSERT INTO connection (account_id, catalog, id, arn, other_participant_account_id, updated_at,
                                   first_seen_at, synced_at)
           VALUES ('000000000009', 'AWS', %s, 'arn', '000000000000', now(), now(), now())""",
        [f"pac-{number:013d}"],
    )


WAITING = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


async def until_somebody_waits(url: str) -> None:
    """Until a transaction waits for another's lock."""
    await until(lambda: rows(url, WAITING) == [(1,)])


async def test_what_was_not_found_is_not_brought_back_by_what_was_asked_earlier(database_url: str) -> None:
    """Connection 1 was never stored, connection 2 is removed."""
    pool = Pool(database_url)
    one, other = await writer(pool), await writer(pool)
    await write(one, [found(2)])
    await write(one, [gone(2, asked=10)])
    await one[0].confirm_removals()
    await write(one, [gone(1, asked=20), gone(2, asked=20)])
    await write(other, [found(1, version=1, asked=15), found(2, version=1, asked=15)])
    assert other[1].tally[Outcome.STALE] == 2
    assert rows(database_url, "SELECT id FROM connection WHERE removed_at IS NULL") == []
    await write(other, [found(1, version=1, asked=25), found(2, version=1, asked=25)])
    assert other[1].tally[Outcome.WRITTEN] == 2
    await pool.close()


async def test_what_was_not_found_is_remembered_for_a_week(database_url: str) -> None:
    pool = Pool(database_url)
    one = await writer(pool)
    await write(one, [gone(1, asked=0), gone(2, asked=0)])
    with psycopg.connect(database_url) as database:
        database.execute(
            "UPDATE connection_not_found SET asked_at = now() - interval '6 days' WHERE id LIKE '%2'"
        )
        database.commit()
    await writer(pool)
    await pool.close()
    assert rows(database_url, "SELECT id FROM connection_not_found") == [("pac-0000000000002",)]


# The first connection's row leaves its transaction a millisecond to be idle in; others note what there is.
IMPATIENT = """
    CREATE SEQUENCE inserted;
    CREATE TABLE noted (allowed text);
    CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO noted VALUES (current_setting('idle_in_transaction_session_timeout'));
        IF nextval('inserted') = 1 THEN
            PERFORM set_config('idle_in_transaction_session_timeout', '1ms', true);
        END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER noted BEFORE INSERT ON connection FOR EACH ROW EXECUTE FUNCTION note();
"""
FIRST_IS_IDLE = """
    SELECT FROM inserted, pg_stat_activity
    WHERE last_value = 1 AND datname = current_database() AND state = 'idle in transaction'
"""


async def test_a_writer_that_falls_asleep_is_let_go_of_and_writes_once_more(database_url: str) -> None:
    """All others may wait for its locks: it has a minute."""
    with psycopg.connect(database_url, autocommit=True) as database:
        database.execute(IMPATIENT)
        pool = Recording(database_url)
        one = await writer(pool)

        patience = time.monotonic() + PATIENCE

        def asleep(sql: str) -> None:
            while "INSERT INTO participant" in sql and database.execute(FIRST_IS_IDLE).rowcount:
                assert time.monotonic() < patience, "nobody lets go of it"

        pool.before = asleep
        await write(one, [found(1)])
    await pool.close()
    assert one[1].tally[Outcome.WRITTEN] == 1
    assert rows(database_url, "SELECT * FROM noted") == [("1min",)]
    assert rows(database_url, "SELECT last_value FROM inserted") == [(2,)]


@pytest.mark.parametrize("removed", [False, True])
@pytest.mark.parametrize("first", ["found", "not found"])
async def test_found_and_not_found_at_once_end_as_if_one_came_after_the_other(
    database_url: str, first: str, *, removed: bool
) -> None:
    """The first is held up before its commit until the second waits for it, or is through."""
    pool = Pool(database_url, connections=4)
    if removed:
        before = await writer(pool)
        await write(before, [found(1)])
        await write(before, [gone(1, asked=10)])
        await before[0].confirm_removals()
    other = await writer(pool)
    runs_before = rows(database_url, "SELECT id FROM sync_run")
    one = await writer(pool)
    answers: list[list[Fetched]] = [[found(1, version=1, asked=15)], [gone(1, asked=20)]]
    if first == "not found":
        answers.reverse()
    with psycopg.connect(database_url) as somebody:
        others = [id for (id,) in runs_before]
        somebody.execute("SELECT FROM sync_run WHERE id <> ALL (%s) FOR UPDATE", [others])
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write, one, answers[0])
            await until_somebody_waits(database_url)
            tasks.start_soon(write, other, answers[1])
            await until(
                lambda: (
                    (other[1].tally.read > 0 and other[1].in_flight == 0)
                    or rows(database_url, WAITING) == [(2,)]
                )
            )
            somebody.rollback()
    await other[0].confirm_removals()
    await pool.close()
    assert rows(database_url, "SELECT id FROM connection WHERE removed_at IS NULL") == []


async def test_a_late_answer_neither_overwrites_nor_removes(database_url: str) -> None:
    pool = Pool(database_url)
    early, late = await writer(pool), await writer(pool)
    await write(early, [found(1, version=2, asked=10)])
    await write(late, [found(1, version=1, asked=20)])
    await write(late, [gone(1, asked=5)])
    await late[0].confirm_removals()
    await pool.close()
    assert late[1].tally[Outcome.STALE] == 2
    assert rows(database_url, "SELECT arn, removed_at FROM connection") == [("arn:2", None)]


async def test_the_checkpoint_is_committed_with_the_rows(database_url: str) -> None:
    pool = Pool(database_url)
    one = await writer(pool)
    await write(one, [found(number) for number in range(30)])
    with psycopg.connect(database_url) as connection:
        connection.execute("ALTER TABLE sync_run ADD CHECK (checkpoint < 40)")
    refused = await writer(pool)
    # The run's row cannot be written, so nothing of the batch may be there either.
    with pytest.raises(CheckViolation, match="sync_run_checkpoint_check"):
        await write(refused, [found(number) for number in range(100, 150)])
    await pool.close()
    ((checkpoint, connections),) = rows(
        database_url, "SELECT sum(checkpoint), (SELECT count(*) FROM connection) FROM sync_run"
    )
    assert checkpoint == connections


async def test_a_row_that_the_database_refuses_costs_only_itself(program: Program, database_url: str) -> None:
    population = Population(300, seed=60)
    bad = population.identifier(123)
    with psycopg.connect(database_url) as connection:
        connection.execute(f"ALTER TABLE connection_type ADD CHECK (connection_id <> '{bad}')".encode())
    async with served(program, population):
        done = await program("sync", ids_file(program.folder, population), "--json")
        assert (done.exit, done.result["failed"], done.result["written"]) == (1, 1, 299)
        assert rows(database_url, "SELECT identifier, code FROM sync_failure") == [(bad, "RefusedByDatabase")]
        with psycopg.connect(database_url) as connection:
            connection.execute(
                "ALTER TABLE connection_type DROP CONSTRAINT connection_type_connection_id_check"
            )
        assert (await program("sync", "--failed")).exit == 0
    assert_in_step(database_url, population)


async def test_hostile_text_arrives_or_is_replaced(program: Program, database_url: str) -> None:
    population = Population(3, seed=61)
    names: dict[str, Any] = {"'; DROP TABLE connection; --": 0, 'a"b\\c{d},NULL': 1, "nul\x00 lone\ud800": 2}
    for name, number in names.items():
        answer: Any = population.get(population.identifier(number))
        for detail in answer["ConnectionTypes"].values():
            detail["InviterName"] = name
        population.overrides[population.identifier(number)] = answer
    async with served(program, population):
        done = await program("sync", ids_file(program.folder, population), "--json")
    assert done.exit == 0, done.stderr
    assert done.events("schema_drift")
    stored = {name for (name,) in rows(database_url, "SELECT inviter_name FROM connection_type")}
    assert stored == {"'; DROP TABLE connection; --", 'a"b\\c{d},NULL', "nul\ufffd lone\ufffd"}


async def test_tables_that_nobody_has_analyzed_yet_are_looked_up_by_their_keys(database_url: str) -> None:
    """As after a first load: the planner knows nothing of their sizes, and must not go through all rows."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        tables = "connection", "connection_type", "participant", "connection_type_history"
        for table in (*tables, "connection_not_found"):
            connection.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)".encode())
    pool = Recording(database_url)
    one = await writer(pool)
    await write(one, [found(number) for number in range(1000)])
    await write(one, [gone(number, asked=5) for number in range(2000, 3000)])
    pool.asked.clear()
    await write(one, [found(number, asked=10) for number in range(1000, 1500)])
    await write(one, [found(number, asked=10) for number in range(500)])
    await write(one, [found(number, version=1, asked=20) for number in range(500)])
    await pool.close()
    explained = 0
    with psycopg.connect(database_url) as connection:
        for statement, parameters in pool.asked:
            asks = statement.split()[0] in ("SELECT", "UPDATE")
            if asks and "sync_run" not in statement and "advisory" not in statement:
                plan = connection.execute(b"EXPLAIN " + statement.encode(), parameters).fetchall()
                lines = "\n".join(line for (line,) in plan)
                assert "Seq Scan" not in lines
                # Until version 17 the planner thinks that an account has a row at most, and takes all of them
                # to choose from: twice as long for 30,000 rows, until autovacuum has looked at the table.
                if connection.info.server_version >= 170_000:
                    assert re.search(r"Index Cond: .* = ANY", lines), lines
                explained += 1
    assert explained >= 8
