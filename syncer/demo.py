"""The demonstration: the main job with nothing to set up, then what is in the tables."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import anyio
from rich.console import Console
from rich.table import Table

from syncer import report
from syncer.partner_central.population import OWN_ACCOUNT, Population
from syncer.partner_central.simulator import Faults, Simulator
from syncer.run import sync
from syncer.settings import Input, RunSettings
from syncer.store.pool import Pool, scalar

CONNECTIONS = 1000
SEED = 2026
# A friendly API: quick, and failing now and then, so that a retry is to be seen.
FAULTS = Faults(latency=0.02, jitter=0.02, error_rate=0.01)

TABLES: Sequence[tuple[str, str]] = (
    (
        "connection",
        """SELECT id, other_participant_account_id AS other_account, updated_at
           FROM connection ORDER BY id LIMIT 4""",
    ),
    (
        "connection_type",
        """SELECT connection_id AS connection, type, status, participant_id AS participant
           FROM connection_type ORDER BY connection_id, type LIMIT 4""",
    ),
    ("participant", "SELECT kind, id, name FROM participant ORDER BY kind, id LIMIT 4"),
)


def environment(endpoint: str) -> dict[str, str]:
    """What makes syncer, like any program on the AWS SDK, call the simulator at `endpoint`."""
    return {
        "AWS_ENDPOINT_URL_PARTNERCENTRAL_ACCOUNT": endpoint,
        # The simulator checks no signature, but the SDK signs with something.
        "AWS_ACCESS_KEY_ID": "simulated",
        "AWS_SECRET_ACCESS_KEY": "simulated",
        "SYNCER_ACCOUNT_ID": OWN_ACCOUNT,
    }


async def demonstrate(database_url: str, psql: str, *, keep: bool) -> report.Report:
    """Sync a simulated population into the database at `database_url`, and show it.

    psql: the command line that opens the database, for people who want to look further.
    """
    console = Console()
    population = Population(CONNECTIONS, SEED)
    async with Simulator(population, FAULTS).serving() as endpoint:
        console.print(f"A simulated Partner Central with {CONNECTIONS:,} connections is at {endpoint}.")
        os.environ.update(environment(endpoint))
        with tempfile.TemporaryDirectory() as folder:
            ids = Path(folder) / "ids.txt"
            await anyio.Path(ids).write_text("\n".join(population.identifiers()))
            settings = RunSettings(input=Input.FILE, paths=(str(ids),), account_id=OWN_ACCOUNT)
            [result] = await sync(settings, database_url)
    console.print()
    report.print_table(result, console)
    await _show(database_url, console)
    if keep:
        console.print("\nThe database keeps running. Look further with:", highlight=False)
        console.print(f"  {psql}", highlight=False, soft_wrap=True)
    else:
        console.print(
            "\nThe data stays, the database stops now. To look further: "
            "`syncer demo --keep`, then\n"
            f"  {psql}",
            highlight=False,
            soft_wrap=True,
        )
    return result


async def _show(database_url: str, console: Console) -> None:
    async with Pool(database_url) as pool, pool.connection() as connection:
        for name, query in TABLES:
            count = await scalar(connection, f"SELECT count(*) FROM {name}")  # noqa: S608  (a name of ours)
            rows = await connection.execute(query)
            columns = (column.name for column in rows.description or ())
            table = Table(*columns, title=f"{name}: {count:,} rows, the first of them")
            async for row in rows:
                table.add_row(*(str(value) for value in row))
            console.print()
            console.print(table)
