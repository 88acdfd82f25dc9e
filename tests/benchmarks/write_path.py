"""The write path against SQLModel's session.merge and against a plain COPY of the same rows.

    .venv/bin/python tests/benchmarks/write_path.py [DATABASE_URL]

Without a URL it runs on the embedded Postgres, in a database of its own. Each round writes the same
connections with each contender, in turn, into empty tables, 500 connections per transaction; the rows are
made before the clock starts. The figures are medians of the rounds, the ratios are taken within each round.
"""

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
from sqlalchemy import create_engine, make_url
from sqlmodel import Session

from syncer.answers import Connection, ConnectionType, Found
from syncer.identifiers import Item
from syncer.ledger import Ledger, Settlement
from syncer.store import runs, tables
from syncer.store.embedded import embedded
from syncer.store.pool import Pool
from syncer.store.schema import migrate
from syncer.store.writer import Scope, Writer

ACCOUNT, CATALOG = "000000000009", "AWS"
BATCH = 500
TABLES = "connection, connection_type, participant, connection_type_history, sync_run, sync_failure"
START = datetime(2026, 1, 1, tzinfo=UTC)

Contender = Callable[[Pool, list[list[Found]]], Awaitable[float]]


def connection(number: int) -> Connection:
    """About 4.2 rows of three tables each: 1.3 types, and participants of which half are shared."""
    dice = random.Random(number)
    identifier = f"pac-{number:013d}"
    names = ("OPPORTUNITY_COLLABORATION", "SUBSIDIARY") if dice.random() < 0.3 else ("SUBSIDIARY",)
    types = tuple(
        ConnectionType(
            type=name,
            status="ACTIVE",
            created_at=START + timedelta(seconds=dice.randrange(10**7)),
            inviter_email=f"inviter{number}@partner.example",
            inviter_name=f"Inviter {number}",
            canceled_at=None,
            canceled_by=None,
            participant_kind="PartnerProfile",
            participant_id=f"pprofile-{dice.choice((number, dice.randrange(3000))):013d}",
            participant_name=f"Partner {number}",
        )
        for name in names
    )
    return Connection(
        id=identifier,
        arn=f"arn:aws:partnercentral:us-east-1::catalog/AWS/connection/{identifier}",
        other_participant_account_id=f"{dice.randrange(10**12):012d}",
        updated_at=START + timedelta(seconds=dice.random() * 10**6),
        types=types,
    )


def batches(connections: int) -> list[list[Found]]:
    found = [Found(Item(i, f"pac-{i:013d}"), START, connection(i)) for i in range(connections)]
    return [found[start : start + BATCH] for start in range(0, connections, BATCH)]


async def ours(pool: Pool, work: list[list[Found]]) -> float:
    scope, ledger = Scope(runs.new_id(START), ACCOUNT, CATALOG), Ledger()
    await runs.start(pool, scope, runs.Beginning("file", START))

    async def committed(settlement: Settlement) -> None:
        pass

    writer = Writer(pool, scope, ledger, now=lambda: START, sleep=anyio.sleep, committed=committed)
    began = time.perf_counter()
    for batch in work:
        for answer in batch:
            ledger.read(answer.item)
        await writer.write(batch)
    return time.perf_counter() - began


async def merge(pool: Pool, work: list[list[Found]]) -> float:
    """What the ORM's manual suggests: one session per batch, one merge per row."""
    engine = create_engine(make_url(pool.url).set(drivername="postgresql+psycopg"))
    engine.connect().close()
    began = time.perf_counter()
    for batch in work:
        with Session(engine) as session:
            for row in _models(batch):
                session.merge(row)
            session.commit()
    took = time.perf_counter() - began
    engine.dispose()
    return took


def _models(batch: list[Found]) -> Iterator[tables.Connection | tables.Participant | tables.ConnectionType]:
    for answer in batch:
        each = answer.connection
        yield tables.Connection(
            account_id=ACCOUNT,
            catalog=CATALOG,
            id=each.id,
            arn=each.arn,
            other_participant_account_id=each.other_participant_account_id,
            updated_at=each.updated_at,
            first_seen_at=START,
            synced_at=START,
        )
        for kind in each.types:
            yield tables.Participant(
                account_id=ACCOUNT,
                catalog=CATALOG,
                kind=kind.participant_kind,
                id=kind.participant_id,
                name=kind.participant_name,
                connection_id=each.id,
                updated_at=each.updated_at,
            )
            yield tables.ConnectionType(
                account_id=ACCOUNT,
                catalog=CATALOG,
                connection_id=each.id,
                type=kind.type,
                status=kind.status,
                created_at=kind.created_at,
                inviter_email=kind.inviter_email,
                inviter_name=kind.inviter_name,
                participant_kind=kind.participant_kind,
                participant_id=kind.participant_id,
            )


async def copy(pool: Pool, work: list[list[Found]]) -> float:
    """No upsert, no comparison, each participant once: what Postgres takes at best, row by row given."""
    seen: set[str] = set()
    began = time.perf_counter()
    for batch in work:
        async with pool.transaction() as connection, connection.cursor() as cursor:
            async with cursor.copy(
                "COPY connection (account_id, catalog, id, arn, other_participant_account_id, updated_at,"
                " first_seen_at, synced_at) FROM STDIN"
            ) as rows:
                for answer in batch:
                    each = answer.connection
                    await rows.write_row(
                        (ACCOUNT, CATALOG, each.id, each.arn, each.other_participant_account_id,
                         each.updated_at, START, START)
                    )  # fmt: skip
            async with cursor.copy(
                "COPY participant (account_id, catalog, kind, id, name, connection_id, updated_at) FROM STDIN"
            ) as rows:
                for answer in batch:
                    each = answer.connection
                    for kind in each.types:
                        if kind.participant_id not in seen:
                            seen.add(kind.participant_id)
                            await rows.write_row(
                                (ACCOUNT, CATALOG, kind.participant_kind, kind.participant_id,
                                 kind.participant_name, each.id, each.updated_at)
                            )  # fmt: skip
            async with cursor.copy(
                "COPY connection_type (account_id, catalog, connection_id, type, status, created_at,"
                " inviter_email, inviter_name, canceled_at, canceled_by, participant_kind,"
                " participant_id) FROM STDIN"
            ) as rows:
                for answer in batch:
                    each = answer.connection
                    for kind in each.types:
                        await rows.write_row(
                            (ACCOUNT, CATALOG, each.id, kind.type, kind.status, kind.created_at,
                             kind.inviter_email, kind.inviter_name, None, None, kind.participant_kind,
                             kind.participant_id)
                        )  # fmt: skip
            async with cursor.copy(
                "COPY connection_type_history (account_id, catalog, connection_id, type, status,"
                " created_at, inviter_email, inviter_name, canceled_at, canceled_by, participant_kind,"
                " participant_id, participant_name, valid_from) FROM STDIN"
            ) as rows:
                for answer in batch:
                    each = answer.connection
                    for kind in each.types:
                        await rows.write_row(
                            (ACCOUNT, CATALOG, each.id, kind.type, kind.status, kind.created_at,
                             kind.inviter_email, kind.inviter_name, None, None, kind.participant_kind,
                             kind.participant_id, kind.participant_name, each.updated_at)
                        )  # fmt: skip
    return time.perf_counter() - began


async def compare(url: str, connections: int, rounds: int) -> None:
    await migrate(url)
    pool = Pool(url)
    work = batches(connections)
    few = work[: max(1, len(work) // 20)]  # merge is too slow for all of them
    rates: dict[str, list[float]] = {"syncer": [], "COPY": [], "session.merge": [], "syncer, again": []}
    for _ in range(rounds):
        for name, contender, load in (
            ("session.merge", merge, few),
            ("COPY", copy, work),
            ("syncer", ours, work),
            ("syncer, again", ours, work),
        ):
            if name != "syncer, again":
                async with pool.connection() as connection:
                    await connection.execute(f"TRUNCATE {TABLES}")
            seconds = await contender(pool, load)
            rates[name].append(sum(map(len, load)) / seconds)
    await pool.close()
    print(f"{connections:,} connections, {BATCH} per transaction, {rounds} rounds")
    for name, each in rates.items():
        ratio = statistics.median(ours / it for ours, it in zip(rates["syncer"], each, strict=True))
        print(f"{name:15} {statistics.median(each):9,.0f} connections/s   syncer is {ratio:6.2f} x that")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("url", nargs="?")
    parser.add_argument("--connections", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    if given.url:
        anyio.run(compare, given.url, given.connections, given.rounds)
    else:
        with tempfile.TemporaryDirectory() as folder, embedded(Path(folder)) as database:
            anyio.run(compare, database.url, given.connections, given.rounds)
