"""The scheduled sync over what has not changed: calls, rows, and peak memory as the population grows.

    .venv/bin/python tests/benchmarks/listing.py [--connections 10000 1000000]

Each size is put into an empty database by COPY, as a sync would have left it, and then listed by
`syncer sync`, a process of its own, from a simulator in another.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import anyio
import psycopg

from syncer.demo import environment
from syncer.partner_central.population import OWN_ACCOUNT, Population
from syncer.store.embedded import embedded
from syncer.store.schema import migrate

SEED = 1
TABLES = "connection, connection_type, participant, connection_type_history, sync_run, request_rate"
PARTICIPANT = f"INSERT INTO participant VALUES ('{OWN_ACCOUNT}', 'AWS', 'Account', '1', 'A', 'pac-', now())"
ONE_TYPE_EACH = """
    INSERT INTO connection_type (account_id, catalog, connection_id, type, status, created_at,
                                 participant_kind, participant_id)
    SELECT account_id, catalog, id, 'SUBSIDIARY', 'ACTIVE', updated_at, 'Account', '1' FROM connection
"""
# A row that was written since has a younger transaction in it.
TOUCHED = "SELECT " + " + ".join(
    f"(SELECT count(*) FROM {table} WHERE xmin::text::bigint > %(since)s)"
    for table in ("connection", "connection_type", "participant", "connection_type_history")
)


def store(url: str, size: int) -> tuple[int, int]:
    """Store what is listed of a population of `size`: how many connections, and the last transaction's ID."""
    now, listed = datetime.now(UTC), 0
    population = Population(size, SEED)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"TRUNCATE {TABLES}".encode())
        with connection.cursor().copy(
            "COPY connection (account_id, catalog, id, arn, other_participant_account_id, updated_at,"
            " first_seen_at, synced_at) FROM STDIN"
        ) as rows:
            start: int | None = 0
            while start is not None:
                summaries, start = population.page(start, 1000)
                for each in summaries:
                    rows.write_row(
                        (OWN_ACCOUNT, "AWS", each["Id"], each["Arn"], each["OtherParticipantAccountId"],
                         each["UpdatedAt"], now, now)
                    )  # fmt: skip
                listed += len(summaries)
        connection.execute(PARTICIPANT.encode())
        connection.execute(ONE_TYPE_EACH.encode())
        connection.execute("ANALYZE")
        last = connection.execute("SELECT pg_current_xact_id()::text::bigint").fetchone()
    return listed, last[0] if last else 0


def main(sizes: list[int]) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        embedded(Path(folder)) as database,
    ):
        anyio.run(migrate, database.url)
        least = None
        for size in sizes:
            listed, last = store(database.url, size)
            simulator = subprocess.Popen(
                [sys.executable, "-m", "syncer", "simulate", "--port", "0", "--seed", str(SEED),
                 "--connections", str(size)],
                stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            assert simulator.stdout is not None
            endpoint = simulator.stdout.readline().split()[4].rstrip(",")
            variables = environment(endpoint) | {"DATABASE_URL": database.url}
            process = subprocess.Popen(
                [sys.executable, "-m", "syncer", "sync", "--json"],
                env=os.environ | variables, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            )  # fmt: skip
            assert process.stdout is not None
            result = process.stdout.read()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            simulator.terminate()
            simulator.wait()
            with psycopg.connect(database.url) as connection:
                (touched,) = connection.execute(TOUCHED.encode(), {"since": last}).fetchone() or (None,)
            peak = usage.ru_maxrss / 1024
            least = least or peak
            told = json.loads(result)
            print(
                f"{listed:9,} listed: {peak:6.1f} MiB ({peak / least:.2f} x), {told['api_calls']:,} calls, "
                f"{told['skipped']:,} skipped, {told['seconds']:.1f} s, rows touched: {touched}",
                flush=True,
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--connections", type=int, nargs="+", default=[10_000, 1_000_000])
    main(parser.parse_args().connections)
