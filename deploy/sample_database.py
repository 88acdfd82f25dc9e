"""A database as some weeks of syncing leave it, for as long as a command runs that looks at it.

    python deploy/sample_database.py COMMAND…

Embedded Postgres, the simulator, and a `syncer sync` for each of eight days, with changes in between: new
connections, cancellations, renamings, removals, one that comes back. COMMAND finds the database by libpq's
own variables (PGHOST, PGUSER and so on), as a BI tool should: its user reads the schema `reporting`, and owns
a schema `analytics`. SAMPLE_OWNER is the owner's name, psql is on the PATH. The exit code is COMMAND's.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg

from syncer.demo import environment
from syncer.partner_central.population import OWN_ACCOUNT, Population
from syncer.partner_central.simulator import Simulator
from syncer.store.embedded import Embedded, embedded
from syncer.store.rights import Grantees, grant
from syncer.store.schema import migrate

SEED = 6
# What there is on the first day, and what the days add.
AT_FIRST = 420
NEW_EACH_DAY = (5, 3, 8, 0, 6, 4, 7)
SANDBOX = 40
DAYS = len(NEW_EACH_DAY)

READER = "bi_reader"


class Served:
    """A population whose times end some days ago, and what happens to it from then on.

    The answers are the simulator's own, moved in time, so that the trend goes on until today.
    """

    def __init__(self, size: int, catalog: str, first_day: datetime) -> None:
        self.population = Population(size + sum(NEW_EACH_DAY), SEED, catalog)
        self._answers = [self._answer(number) for number in range(self.population.size)]
        latest = max(_time(answer["UpdatedAt"]) for answer in self._answers[:size])
        for number, answer in enumerate(self._answers):
            _move(answer, first_day - latest)
            self._serve(number, answer if number < size else None)
        self._hidden = size
        self._untouched = iter(range(size))

    def day(self, now: datetime, new: int) -> None:
        """A day on which something of each kind happens, `new` connections among it."""
        for number in range(self._hidden, self._hidden + new):
            answer = self._answers[number]
            _move(answer, now - _time(answer["UpdatedAt"]))
            for detail in answer["ConnectionTypes"].values():
                detail["CreatedAt"] = _text(now - timedelta(hours=2))
                if "CanceledAt" in detail:
                    detail["CanceledAt"] = _text(now - timedelta(hours=1))
            self._serve(number, answer)
        self._hidden += new
        for _ in range(3):
            self._change(now, lambda detail: _cancel(detail, now))
        self._change(now, _rename)

    def remove(self) -> int:
        """Have a connection that the API no longer knows; its number."""
        number = self._next_active()
        self._serve(number, None)
        return number

    def bring_back(self, number: int, now: datetime) -> None:
        self._answers[number]["UpdatedAt"] = _text(now)
        self._serve(number, self._answers[number])

    def _change(self, now: datetime, change: Callable[[dict[str, Any]], None]) -> None:
        number = self._next_active()
        answer = self._answers[number]
        answer["UpdatedAt"] = _text(now)
        for detail in answer["ConnectionTypes"].values():
            change(detail)

    def _next_active(self) -> int:
        return next(
            number
            for number in self._untouched
            if all(each["Status"] == "ACTIVE" for each in self._answers[number]["ConnectionTypes"].values())
        )

    def _answer(self, number: int) -> dict[str, Any]:
        return self.population.connection(number)

    def _serve(self, number: int, answer: dict[str, Any] | None) -> None:
        self.population.overrides[self.population.identifier(number)] = answer


def _cancel(detail: dict[str, Any], now: datetime) -> None:
    detail.update(Status="CANCELED", CanceledAt=_text(now), CanceledBy=OWN_ACCOUNT)


def _rename(detail: dict[str, Any]) -> None:
    for participant in detail["OtherParticipant"].values():
        participant["Name"] += " Group"


def _move(answer: dict[str, Any], by: timedelta) -> None:
    answer["UpdatedAt"] = _text(_time(answer["UpdatedAt"]) + by)
    for detail in answer["ConnectionTypes"].values():
        for member in ("CreatedAt", "CanceledAt"):
            if member in detail:
                detail[member] = _text(_time(detail[member]) + by)


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _text(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


async def fill(url: str, folder: Path) -> None:
    """Migrate the database at `url`, and sync into it day after day."""
    await migrate(url)
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    first_day = today - timedelta(days=DAYS)
    served = Served(AT_FIRST, "AWS", first_day)
    async with Simulator(served.population).serving() as endpoint:
        ids = folder / "ids.txt"
        ids.write_text("\n".join(served.population.identifiers()))
        # Also those that were canceled before anybody looked: they are in no listing.
        await _sync(url, endpoint, str(ids))
        await _sync(url, endpoint)
        gone = served.remove()
        served.remove()
        for day, new in enumerate(NEW_EACH_DAY):
            served.day(first_day + timedelta(days=day, hours=9), new)
            await _sync(url, endpoint)
        served.bring_back(gone, today - timedelta(hours=3))
        await _sync(url, endpoint)
    sandbox = Served(SANDBOX, "Sandbox", first_day)
    async with Simulator(sandbox.population).serving() as endpoint:
        await _sync(url, endpoint, "--catalog", "Sandbox")


async def _sync(url: str, endpoint: str, *arguments: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "syncer", "sync", "--json", *arguments,
        env=os.environ | environment(endpoint) | {"DATABASE_URL": url},
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    _, log = await process.communicate()
    if process.returncode:
        sys.exit(f"syncer sync {' '.join(arguments)} ended with {process.returncode}:\n{log.decode()}")


def admit_reader(url: str) -> None:
    """The role that the BI tools get: it reads the schema `reporting`, and dbt's schema is its own."""
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in (
            f"CREATE ROLE {READER} LOGIN",
            f"CREATE SCHEMA analytics AUTHORIZATION {READER}",
        ):
            connection.execute(statement.encode())
    asyncio.run(grant(url, Grantees(reader=READER), apply=True))


def variables(server: Embedded) -> dict[str, str]:
    """What tells libpq, and so every BI tool, where the database is."""
    parts = urlsplit(server.url)
    query = parse_qs(parts.query)
    return {
        "PGHOST": query["host"][0],
        "PGPORT": query["port"][0],
        "PGDATABASE": parts.path.strip("/"),
        "PGUSER": READER,
        "SAMPLE_OWNER": parts.username or "",
        "PATH": f"{server.psql.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
    }


def main(command: Sequence[str]) -> int:
    if not command:
        print(__doc__, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="syncer-sample-") as name:
        folder = Path(name)
        # The server's own account has to come through on its way to the folder below.
        folder.chmod(0o711)
        with embedded(folder / "postgres") as server:
            asyncio.run(fill(server.url, folder))
            admit_reader(server.url)
            return subprocess.run(command, env=os.environ | variables(server), check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
