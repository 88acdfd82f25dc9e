"""The throughput race: syncer beside what one would use instead, on the same IDs from the same server.

    .venv/bin/python tests/benchmarks/race.py [--ids 10000] [--rounds 3] [--only syncer plain dlt singer]
        [--environments FOLDER] [--json FILE] [--markdown]

One lean server of the API (see `lean_server`) and one embedded Postgres, each on loopback, serve everybody in
turn; who goes first changes from round to round. Each contender is a program of its own, begun on an empty
database, so its start counts; syncer's knows the request rate that one earlier run has learned. Per round:

    first load        IDs/s by the clock, CPU of the whole process tree, peak memory
    the same again    seconds, rows rewritten in the three tables, write-ahead log
    killed            what is in the tables after `kill -9` at half the time of the first load; once more to
                      its end, the content is compared again

After each of them `connection`, `connection_type` and `participant` must hold the same as everybody else's.
The peers' environments are made on first use, in --environments: a temporary folder unless it is given.
"""

import argparse
import hashlib
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any

import anyio
import psycopg
from sqlalchemy import make_url

from syncer.demo import environment
from syncer.partner_central.client import MODEL
from syncer.store.embedded import embedded
from syncer.store.schema import migrate
from tests.benchmarks import lean_server

HERE = Path(__file__).parent
PEERS = HERE / "peers"
TABLES = ("connection", "connection_type", "participant")
SIGKILL = 9

# What everybody's tables have in common. Times are cast, for some have no zone: all of them are UTC.
CONTENT = {
    "connection": "account_id, catalog, id, arn, other_participant_account_id, updated_at::timestamp",
    "connection_type": "account_id, catalog, connection_id, type, status, created_at::timestamp,"
    " inviter_email, inviter_name, canceled_at::timestamp, canceled_by, participant_kind, participant_id",
    "participant": "account_id, catalog, kind, id, name, connection_id, updated_at::timestamp",
}


# --- The contenders


@dataclass(frozen=True, slots=True)
class Contender:
    """One of the race.

    commands: of the programs of its pipe, for a file of IDs and a database. named: packages whose versions
    are told. template: the database that its own begins as.
    """

    name: str
    commands: Callable[[Path, Path, str], list[list[str]]]
    named: Sequence[str]
    environment: str = ""
    template: str = "template1"


def _plain(python: Path, ids: Path, url: str) -> list[list[str]]:
    return [[str(python), str(PEERS / "plain.py"), str(ids), url]]


def _dlt(python: Path, ids: Path, url: str) -> list[list[str]]:
    return [[str(python), str(PEERS / "dlt_pipeline.py"), str(ids), url]]


def _singer(python: Path, ids: Path, url: str) -> list[list[str]]:
    """The tap, and the target: a row that is there already is updated, since the streams have keys."""
    tap, target = ids.with_name("tap.json"), ids.with_name("target.json")
    tap.write_text(json.dumps({"ids": str(ids)}))
    options = {
        "sqlalchemy_url": url.replace("postgresql://", "postgresql+psycopg://"),
        "default_target_schema": "partners",
        "use_copy": True,
        "add_record_metadata": False,
        "activate_version": False,
        "validate_records": False,
        "batch_size_rows": 10_000,
    }
    target.write_text(json.dumps(options))
    return [
        [str(python), str(PEERS / "singer_tap.py"), "--config", str(tap)],
        [str(python.with_name("target-postgres")), "--config", str(target)],
    ]


def _syncer(_: Path, ids: Path, url: str) -> list[list[str]]:
    return [[sys.executable, "-m", "syncer", "sync", str(ids), "--json", "--database-url", url]]


LEARNED = "race_learned"
CONTENDERS = (
    Contender("plain script", _plain, ("boto3", "psycopg"), "plain"),
    Contender("dlt", _dlt, ("dlt", "boto3", "psycopg2-binary"), "dlt"),
    Contender("Singer", _singer, ("singer-sdk", "meltanolabs-target-postgres", "boto3"), "singer"),
    Contender("syncer", _syncer, ("partnercentral-syncer", "aioboto3", "psycopg"), template=LEARNED),
)


def python_of(contender: Contender, folder: Path) -> Path:
    """The interpreter of the contender's environment, which is made if it is not there yet."""
    if not contender.environment:
        return Path(sys.executable)
    wanted = PEERS / f"{contender.environment}.txt"
    digest = hashlib.sha256(wanted.read_bytes()).hexdigest()[:12]
    place = folder / f"{contender.environment}-{digest}"
    python = place / "bin" / "python"
    if not (place / "complete").exists():
        print(f"making the environment of {contender.name}", file=sys.stderr, flush=True)
        venv.create(place, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "-r", wanted], check=True)
        (place / "complete").touch()
    return python


def versions(contender: Contender, python: Path) -> str:
    """Names and versions of the packages that matter."""
    if not contender.environment:
        return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in contender.named)
    ask = "import importlib.metadata as m, sys; print(', '.join(f'{n} {m.version(n)}' for n in sys.argv[1:]))"
    told = subprocess.run(
        [python, "-c", ask, *contender.named], check=True, stdout=subprocess.PIPE, text=True
    )
    return told.stdout.strip()


# --- The database


@dataclass(slots=True)
class Databases:
    """Databases on one server, and what the server says of them."""

    server: str
    made: int = 0

    def make(self, template: str, name: str = "") -> str:
        """A database like `template`; its URL."""
        self.made += 1
        name = name or f"race_{self.made}"
        self.ask(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        return make_url(self.server).set(database=name).render_as_string(hide_password=False)

    def drop(self, url: str) -> None:
        self.ask(f"DROP DATABASE {make_url(url).database} WITH (FORCE)")

    def ask(self, query: str, url: str = "") -> list[tuple[Any, ...]]:
        with psycopg.connect(url or self.server, autocommit=True) as connection:
            connection.execute("SET timezone = 'UTC'")
            answer = connection.execute(query.encode())
            return answer.fetchall() if answer.description else []

    def left(self, url: str) -> None:
        """Wait until nobody is in the database any more: its statistics are complete then."""
        name = make_url(url).database
        query = f"SELECT 1 FROM pg_stat_activity WHERE datname = '{name}' AND backend_type = 'client backend'"
        while self.ask(query):
            time.sleep(0.02)

    def rewritten(self, url: str) -> tuple[int, int]:
        """Rows inserted or updated so far: in the three tables, and in all."""
        self.left(url)
        counts = self.ask("SELECT relname, schemaname, n_tup_ins + n_tup_upd FROM pg_stat_user_tables", url)
        ours = sum(rows for table, schema, rows in counts if table in TABLES and schema in SCHEMAS)
        return ours, sum(rows for *_, rows in counts)

    def log_position(self) -> int:
        """Bytes of write-ahead log so far."""
        [(bytes_,)] = self.ask("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint")
        return int(bytes_)

    def content(self, url: str) -> dict[str, tuple[int, str]]:
        """Per table the number of its rows, and a digest of what is in them; a missing one has none."""
        found = {}
        for table, columns in CONTENT.items():
            schemas = self.ask(
                "SELECT schemaname FROM pg_tables WHERE tablename = "
                f"'{table}' AND schemaname IN ({', '.join(map(repr, SCHEMAS))})",
                url,
            )
            if not schemas:
                found[table] = (0, "no table")
                continue
            [(count, digest)] = self.ask(
                "SELECT count(*), coalesce(md5(string_agg(line, '|' ORDER BY line COLLATE \"C\")), '')"
                f" FROM (SELECT row({columns})::text AS line FROM {schemas[0][0]}.{table}) AS lines",
                url,
            )
            found[table] = (count, digest)
        return found


# Where contenders may have put their tables: dlt has its own for what comes before the merge.
SCHEMAS = ("public", "partners")


# --- One contender's turn


@dataclass(slots=True)
class Turn:
    """What one contender did in one round. cpu: seconds; peak, wal: bytes."""

    seconds: float
    cpu: float
    database_cpu: float
    peak: int
    exits: list[int]
    calls: int
    again_seconds: float = 0.0
    again_cpu: float = 0.0
    rewritten: int = 0
    rewritten_anywhere: int = 0
    wal: int = 0
    killed: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Race:
    """What all turns share. content: what the tables must hold, as the first turn left it."""

    databases: Databases
    postmaster: int
    server: lean_server.Lean
    ids: Path
    count: int
    logs: Path
    variables: Mapping[str, str]
    content: dict[str, tuple[int, str]] = field(default_factory=dict)

    def turn(self, contender: Contender, python: Path, *, kill: bool) -> Turn:
        url = self.databases.make(contender.template)
        commands = contender.commands(python, self.ids, url)
        self.databases.ask("CHECKPOINT")
        self.server.calls()
        database_cpu = _tree_cpu(self.postmaster)
        first = self.run(commands, contender.name)
        self.databases.left(url)
        turn = Turn(
            first["seconds"],
            first["cpu"],
            _tree_cpu(self.postmaster) - database_cpu,
            first["peak"],
            first["exits"],
            self.server.calls()[0],
        )
        self.same(url, contender.name, "its first load")
        (rewritten, anywhere), wal = self.databases.rewritten(url), self.databases.log_position()
        again = self.run(commands, contender.name)
        turn.again_seconds, turn.again_cpu = again["seconds"], again["cpu"]
        turn.rewritten, turn.rewritten_anywhere = (
            after - before
            for after, before in zip(self.databases.rewritten(url), (rewritten, anywhere), strict=True)
        )
        turn.wal = self.databases.log_position() - wal
        self.same(url, contender.name, "its second run")
        self.databases.drop(url)
        if kill:
            turn.killed = self.killed(contender, python, first["seconds"] / 2)
        return turn

    def killed(self, contender: Contender, python: Path, after: float) -> dict[str, Any]:
        """What is in the tables after `kill -9`, and whether another run completes them."""
        url = self.databases.make(contender.template)
        commands = contender.commands(python, self.ids, url)
        ended = self.run(commands, contender.name, after, check=False)
        self.databases.left(url)
        rows = {table: count for table, (count, _) in self.databases.content(url).items()}
        more = self.run(commands, contender.name, check=False)
        complete = self.databases.content(url) == self.content
        self.databases.drop(url)
        return {
            "after": after,
            "exits": ended["exits"],
            "rows": rows,
            "run again": more["exits"],
            "complete then": complete,
        }

    def same(self, url: str, name: str, what: str) -> None:
        content = self.databases.content(url)
        self.content = self.content or content
        if content != self.content or content["connection"][0] != self.count:
            raise SystemExit(f"{name}: after {what} the tables hold {content}, not {self.content}")

    def run(
        self, commands: list[list[str]], name: str, after: float | None = None, *, check: bool = True
    ) -> dict[str, Any]:
        log = self.logs / f"{name.replace(' ', '-')}.log"
        task = {"commands": commands, "stderr": str(log), "after": after, "signal": SIGKILL}
        done = subprocess.run(
            [sys.executable, "-IS", str(HERE / "measured.py"), json.dumps(task)],
            env=os.environ | self.variables, cwd=self.logs, check=True, stdout=subprocess.PIPE,
        )  # fmt: skip
        told: dict[str, Any] = json.loads(done.stdout)
        if check and any(told["exits"]):
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-40:])
            raise SystemExit(f"{name} ended with {told['exits']}:\n{tail}")
        return told


def _tree_cpu(pid: int) -> float:
    """CPU seconds of a process, of its children that live, and of those it has waited for."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            number, _, rest = stat.read_text().partition(" (")
        except OSError:
            continue
        fields = rest.rpartition(")")[2].split()
        if int(number) == pid or int(fields[1]) == pid:
            ticks += sum(int(each) for each in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")


def learned(race: Race) -> None:
    """Make the database that syncer's own begin as: migrated, with the rate that one run has learned."""
    databases = race.databases
    url = databases.make("template1", LEARNED)
    anyio.run(migrate, url)
    race.run(_syncer(Path(), race.ids, url), "syncer, learning")
    databases.left(url)
    tables = databases.ask("SELECT tablename FROM pg_tables WHERE schemaname = 'public'", url)
    kept = ("request_rate", "alembic_version")
    databases.ask(f"TRUNCATE {', '.join(name for (name,) in tables if name not in kept)}", url)


# --- The output


def median(turns: Sequence[Turn], of: Callable[[Turn], float]) -> float:
    return statistics.median(of(turn) for turn in turns)


HEAD = (
    "", "IDs/s", "CPU s per 1,000", "syncer is, by the clock", "by CPU", "peak memory",
    "the same again", "rows rewritten", "WAL", "kept at kill -9 half-way", "another run completes it",
)  # fmt: skip


def lines(results: Mapping[str, list[Turn]], count: int) -> Iterator[list[str]]:
    ours = results.get("syncer", [])
    for name, turns in results.items():
        ratios = ["", ""]
        if ours and name != "syncer":
            pairs = list(zip(turns, ours, strict=True))
            for place, figure in enumerate((attrgetter("seconds"), attrgetter("cpu"))):
                ratio = statistics.median(figure(theirs) / figure(our) for theirs, our in pairs)
                ratios[place] = f"{ratio:.2f} x" + (" (it wins)" if ratio < 1 else "")
        killed = next((turn.killed for turn in turns if turn.killed), None)
        yield [
            name,
            f"{median(turns, lambda turn: count / turn.seconds):,.0f}",
            f"{median(turns, lambda turn: turn.cpu / count * 1000):.2f}",
            *ratios,
            f"{median(turns, lambda turn: turn.peak / 2**20):.0f} MiB",
            f"{median(turns, lambda turn: turn.again_seconds):.1f} s",
            f"{median(turns, lambda turn: turn.rewritten):,.0f}",
            f"{median(turns, lambda turn: turn.wal / 2**20):.2f} MiB",
            f"{killed['rows']['connection'] / count:.0%}" if killed else "",
            ("yes" if killed["complete then"] else "no") if killed else "",
        ]


def table(rows: Sequence[Sequence[str]], *, markdown: bool) -> str:
    if markdown:
        return "\n".join(f"| {' | '.join(row)} |" for row in (rows[0], ["---"] * len(rows[0]), *rows[1:]))
    # A column per contender is easier to read on a terminal than eleven columns.
    turned = list(zip(*rows, strict=True))
    widths = [max(len(row[place]) for row in turned) for place in range(len(rows))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in turned
    )


@contextmanager
def _folder(given: Path | None) -> Iterator[Path]:
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given.absolute()
        return
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def main(given: argparse.Namespace) -> None:
    contenders = [it for it in CONTENDERS if (it.environment or it.name) in given.only]
    with (
        _folder(given.environments) as environments,
        tempfile.TemporaryDirectory() as logs,
        tempfile.TemporaryDirectory() as folder,
        embedded(Path(folder)) as database,
        lean_server.serving() as server,
    ):
        pythons = {it.name: python_of(it, environments) for it in contenders}
        named = {it.name: versions(it, pythons[it.name]) for it in contenders}
        ids = Path(logs) / "ids.txt"
        ids.write_text("".join(f"{identifier}\n" for identifier in lean_server.ids(given.ids)))
        variables = environment(server.url) | {
            "AWS_DATA_PATH": str(MODEL),
            "PYTHONPATH": str(HERE.parents[1]),
        }
        postmaster = int((database.folder / "data" / "postmaster.pid").read_text().split()[0])
        race = Race(Databases(database.url), postmaster, server, ids, given.ids, Path(logs), variables)
        learned(race)
        ceiling = lean_server.ceiling(server)
        results: dict[str, list[Turn]] = {it.name: [] for it in contenders}
        for number in range(given.rounds):
            turn_of = number % len(contenders)
            for contender in contenders[turn_of:] + contenders[:turn_of]:
                kill = number == given.rounds - 1 and not given.no_kill
                turn = race.turn(contender, pythons[contender.name], kill=kill)
                results[contender.name].append(turn)
                print(
                    f"round {number + 1}, {contender.name}: {given.ids / turn.seconds:,.0f} IDs/s, "
                    f"{turn.cpu / given.ids * 1000:.2f} CPU s per 1,000, again {turn.again_seconds:.1f} s",
                    file=sys.stderr,
                    flush=True,
                )
        [(postgres,)] = race.databases.ask("SHOW server_version")
    told = {
        "ids": given.ids,
        "rounds": given.rounds,
        "versions": named | {"Python": platform.python_version(), "PostgreSQL": postgres},
        "server": ceiling,
        "rows": {name: count for name, (count, _) in race.content.items()},
        "turns": {name: [_plainly(turn) for turn in turns] for name, turns in results.items()},
    }
    print(table([HEAD, *lines(results, given.ids)], markdown=given.markdown))
    print(
        f"\n{given.ids:,} IDs, {given.rounds} rounds, medians; ratios within a round. "
        f"The server alone: {ceiling['calls_per_s']:,.0f} calls/s, "
        f"{ceiling['server_cpu_s_per_1000']:.3f} CPU s per 1,000 calls."
    )
    for name, version in told["versions"].items():
        print(f"{name}: {version}")
    if given.json:
        given.json.write_text(json.dumps(told, indent=1) + "\n")
    else:
        print(json.dumps(told))


def _plainly(turn: Turn) -> dict[str, Any]:
    return {name: getattr(turn, name) for name in Turn.__slots__}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--ids", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    names = [it.environment or it.name for it in CONTENDERS]
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--environments", type=Path, metavar="FOLDER", help="where the peers' are kept")
    parser.add_argument("--no-kill", action="store_true", help="leave `kill -9` out")
    parser.add_argument("--json", type=Path, metavar="FILE", help="instead of to stdout")
    parser.add_argument("--markdown", action="store_true", help="the table as Markdown")
    main(parser.parse_args())
