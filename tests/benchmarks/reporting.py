"""Reading each view of schema `reporting` whole, against a sequential scan of the tables below it.

    .venv/bin/python tests/benchmarks/reporting.py [DATABASE_URL]

Without a URL it runs on the embedded Postgres, in a database of its own. Both are read with COPY, to their
last row, in turn; the ratios are taken within each round, and their median is shown. Beside it stands the
ratio of the planner's own costs, and below it each plan.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import anyio
import psycopg

from syncer.store.embedded import embedded
from syncer.store.schema import migrate

ACCOUNT = "000000000009"
VIEWS = ("connections", "participants", "status_changes", "active_by_day", "sync_freshness")

# A fifth of the connections share a participant; five versions of each type: renamed, canceled, active again,
# and one in fifty removed in the end. Rows lie in the order of their time, as a sync leaves them.
DATA = (
    """
    INSERT INTO connection (account_id, catalog, id, arn, other_participant_account_id, updated_at,
                            first_seen_at, synced_at, removed_at)
    SELECT %(account)s, 'AWS', 'pac-' || lpad(number::text, 13, '0'),
           'arn:aws:partnercentral:us-east-1::catalog/AWS/connection/pac-' || lpad(number::text, 13, '0'),
           lpad((number %% (%(connections)s / 5))::text, 12, '0'), now() - random() * interval '300 days',
           now(), now(), CASE WHEN number %% 50 = 0 THEN now() END
    FROM generate_series(1, %(connections)s) AS number
    ORDER BY random()
    """,
    """
    INSERT INTO participant (account_id, catalog, kind, id, name, connection_id, updated_at)
    SELECT %(account)s, 'AWS', (ARRAY['PartnerProfile', 'SellerProfile', 'Account'])[1 + number %% 3],
           'pprofile-' || lpad(number::text, 13, '0'), 'Partner ' || number, 'pac-0000000000001', now()
    FROM generate_series(0, %(connections)s / 5 - 1) AS number
    """,
    """
    INSERT INTO connection_type (account_id, catalog, connection_id, type, status, created_at, inviter_email,
                                 inviter_name, canceled_at, canceled_by, participant_kind, participant_id)
    SELECT %(account)s, 'AWS', connection.id, type.name,
           CASE WHEN number %% 10 = 0 THEN 'CANCELED' ELSE 'ACTIVE' END,
           now() - interval '300 days' - random() * interval '200 days',
           'inviter' || number || '@example.com', 'Inviter ' || number,
           CASE WHEN number %% 10 = 0 THEN now() - random() * interval '200 days' END,
           CASE WHEN number %% 10 = 0 THEN %(account)s END, participant.kind, participant.id
    FROM connection
    CROSS JOIN LATERAL (SELECT right(connection.id, 13)::bigint AS number) AS numbered
    CROSS JOIN LATERAL (
        SELECT 'OPPORTUNITY_COLLABORATION' AS name WHERE number %% 20 < 14
        UNION ALL
        SELECT 'SUBSIDIARY' WHERE number %% 20 >= 9
    ) AS type
    JOIN participant ON participant.id = 'pprofile-' || lpad((number %% (%(connections)s / 5))::text, 13, '0')
    ORDER BY random()
    """,
    """
    INSERT INTO connection_type_history (
        account_id, catalog, connection_id, type, valid_from, valid_to, status, created_at, inviter_email,
        inviter_name, canceled_at, canceled_by, participant_kind, participant_id, participant_name,
        removed_at, previous_status, previous_participant_name, previous_removed_at
    )
    SELECT account_id, catalog, connection_id, type, valid_from,
           lead(valid_from) OVER versions, status, created_at, inviter_email, inviter_name, canceled_at,
           canceled_by, participant_kind, participant_id, name, removed_at, lag(status) OVER versions,
           lag(name) OVER versions, lag(removed_at) OVER versions
    FROM (
        SELECT type.account_id, type.catalog, type.connection_id, type.type,
               created_at + version * (now() - created_at) / 5 AS valid_from,
               CASE version WHEN 2 THEN 'CANCELED' WHEN 4 THEN status ELSE 'ACTIVE' END AS status, created_at,
               inviter_email, inviter_name, canceled_at, canceled_by, participant_kind, participant_id,
               CASE WHEN version = 0 THEN 'Once ' ELSE '' END || participant_id AS name,
               CASE WHEN version = 4 THEN connection.removed_at END AS removed_at
        FROM connection_type AS type
        JOIN connection
          ON connection.account_id = type.account_id AND connection.catalog = type.catalog
             AND connection.id = type.connection_id
        CROSS JOIN generate_series(0, 4) AS version
    ) AS version
    WINDOW versions AS (PARTITION BY account_id, catalog, connection_id, type ORDER BY valid_from)
    ORDER BY valid_from
    """,
    # A year of hourly runs of ten accounts.
    """
    INSERT INTO sync_run (id, source, account_id, catalog, status, started_at, finished_at)
    SELECT account || '-' || hour, CASE WHEN hour %% 4 = 0 THEN 'queue' ELSE 'listing' END,
           lpad(account::text, 12, '0'), 'AWS', CASE WHEN hour %% 7 = 0 THEN 'partial' ELSE 'succeeded' END,
           now() - hour * interval '1 hour', now() - hour * interval '1 hour' + interval '1 minute'
    FROM generate_series(8760, 1, -1) AS hour
    CROSS JOIN generate_series(0, 9) AS account
    """,
    """
    INSERT INTO sync_failure (account_id, catalog, identifier, code, message, attempts, first_failed_at,
                              last_failed_at, run_id)
    SELECT %(account)s, 'AWS', 'pac-' || lpad(number::text, 13, '0'), 'InternalServerException', '', 6, now(),
           now(), '0-1'
    FROM generate_series(1, %(connections)s / 100) AS number
    """,
)


def build(connection: psycopg.Connection[Any], connections: int) -> None:
    for statement in DATA:
        connection.execute(statement.encode(), {"account": ACCOUNT, "connections": connections})
    connection.execute("VACUUM ANALYZE")


def tables_of(connection: psycopg.Connection[Any], view: str) -> list[str]:
    found = connection.execute(
        "SELECT table_name FROM information_schema.view_table_usage"
        " WHERE view_schema = 'reporting' AND view_name = %s",
        [view],
    )
    return [name for (name,) in found]


def seconds(connection: psycopg.Connection[Any], relation: str) -> float:
    """The time that it takes to read all of `relation`."""
    began = time.perf_counter()
    with (
        connection.cursor() as cursor,
        cursor.copy(f"COPY (SELECT * FROM {relation}) TO STDOUT".encode()) as rows,
    ):
        for _ in rows:
            pass
    return time.perf_counter() - began


def cost(connection: psycopg.Connection[Any], relation: str) -> float:
    found = connection.execute(f"EXPLAIN (FORMAT JSON) SELECT * FROM {relation}".encode()).fetchone()
    assert found
    total: float = found[0][0]["Plan"]["Total Cost"]
    return total


def measure(url: str, connections: int, rounds: int) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        build(connection, connections)
        print(f"{connections:,} connections with five versions of each type, {rounds} rounds\n")
        for view in VIEWS:
            relation, tables = f"reporting.{view}", tables_of(connection, view)
            ratios, whole = [], []
            for _ in range(rounds):
                scans = sum(seconds(connection, table) for table in tables)
                whole.append(seconds(connection, relation))
                ratios.append(whole[-1] / scans)
            planned = cost(connection, relation) / sum(cost(connection, table) for table in tables)
            median = statistics.median(whole) * 1000
            print(
                f"{view:15} {median:7,.0f} ms  {statistics.median(ratios):5.2f} x the scan of"
                f" {', '.join(tables)} (planned: {planned:.2f} x)"
            )
        for view in VIEWS:
            print(f"\n{view}")
            for (line,) in connection.execute(
                f"EXPLAIN (ANALYZE, TIMING OFF) SELECT * FROM reporting.{view}".encode()
            ):
                print("   ", line)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("url", nargs="?")
    parser.add_argument("--connections", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    if given.url:
        anyio.run(migrate, given.url)
        measure(given.url, given.connections, given.rounds)
    else:
        with tempfile.TemporaryDirectory() as folder, embedded(Path(folder)) as database:
            anyio.run(migrate, database.url)
            measure(database.url, given.connections, given.rounds)
