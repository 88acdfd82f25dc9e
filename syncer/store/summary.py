"""How things are: the last runs, how fresh each account and catalog is, failures, learned rates."""

from dataclasses import dataclass
from datetime import datetime

import psycopg

from syncer.store import schema
from syncer.store.database import DatabaseNotSetUp, meaning
from syncer.store.pool import Pool

LAST_RUNS = 10


@dataclass(frozen=True, slots=True)
class RunLine:
    """One run."""

    id: str
    source: str
    account_id: str
    catalog: str
    status: str
    started_at: datetime
    seconds: float | None
    read: int
    written: int
    failed: int


@dataclass(frozen=True, slots=True)
class Freshness:
    """One account and catalog. complete_at: when a sync from the listing last left it in step."""

    account_id: str
    catalog: str
    live: int
    complete_at: datetime | None
    age_seconds: float | None


@dataclass(frozen=True, slots=True)
class FailureCount:
    """Recorded failures of one code."""

    account_id: str
    catalog: str
    code: str
    ids: int


@dataclass(frozen=True, slots=True)
class LearnedRate:
    """What is known of one operation's quota."""

    account_id: str
    catalog: str
    operation: str
    rate: float
    learned_at: datetime


@dataclass(frozen=True, slots=True)
class Summary:
    runs: list[RunLine]
    freshness: list[Freshness]
    failures: list[FailureCount]
    rates: list[LearnedRate]


RUNS = """
    SELECT id, source, account_id, catalog, status, started_at, seconds, read, written, failed + invalid
    FROM sync_run
    ORDER BY started_at DESC
    LIMIT %(runs)s
"""

FRESHNESS = """
    SELECT account_id, catalog,
           (SELECT count(*) FROM connection
            WHERE (connection.account_id, connection.catalog) = (freshness.account_id, freshness.catalog)
              AND removed_at IS NULL),
           last_complete_at, lag_seconds
    FROM reporting.sync_freshness AS freshness
    ORDER BY account_id, catalog
"""

FAILURES = """
    SELECT account_id, catalog, code, count(*)
    FROM sync_failure
    GROUP BY account_id, catalog, code
    ORDER BY account_id, catalog, code
"""

RATES = """
    SELECT account_id, catalog, operation, rate, learned_at
    FROM request_rate
    WHERE rate IS NOT NULL
    ORDER BY account_id, catalog, operation
"""


async def summary(pool: Pool) -> Summary:
    """Read it all. Raises `DatabaseError`."""
    try:
        async with pool.transaction() as connection:
            wrong = schema.difference(await schema.version(connection))
            if wrong:
                raise DatabaseNotSetUp(wrong)
            return Summary(
                [RunLine(*row) async for row in await connection.execute(RUNS, {"runs": LAST_RUNS})],
                [Freshness(*row) async for row in await connection.execute(FRESHNESS)],
                [FailureCount(*row) async for row in await connection.execute(FAILURES)],
                [LearnedRate(*row) async for row in await connection.execute(RATES)],
            )
    except (psycopg.Error, OSError) as error:
        raise meaning(error, pool.url) from None
