"""`kill -9`, again and again, at chosen points and at any moment; then the ledger.

Each seed is a trial of its own: connections, an input, and kills. The real program runs in real processes,
between a real Postgres, a queue that speaks SQS's protocol, and an API that speaks Partner Central's. What it
says to them passes by here (`Life.passing`), and is what triggers a kill: nothing in the program knows of it.

    python -m tests.trust.crashes --seeds 3000
    python -m tests.trust.crashes --seed 1234        one of them, and what it printed
"""

import argparse
import asyncio
import contextlib
import copy
import json
import os
import random
import re
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

import psycopg
from aiohttp import web
from alembic import command
from alembic.config import Config
from psycopg.types.json import Jsonb
from sqlalchemy import create_engine, make_url

from syncer.demo import environment
from syncer.identifiers import CONNECTION_ID
from syncer.partner_central.pacing import Report, exchange
from syncer.partner_central.population import OWN_ACCOUNT, Population
from syncer.partner_central.simulator import GET, Faults, Simulator
from syncer.store.schema import VERSION, migrations
from tests.conftest import database_on, server
from tests.sqs_server import Cut, Message, SqsServer
from tests.trust import ledger
from tests.trust.launcher import Launcher, launching
from tests.trust.wire import COMMITTED, Severed, Transaction, wire

AGAIN = "python -m tests.trust.crashes --seed"
# Trials side by side: most of the time each waits for something.
AT_ONCE = 8
# A start that takes longer than this (seconds) hangs.
PATIENCE = 60.0
# What a dead worker held is seen again after so long (seconds), which here passes at once.
VISIBILITY = 10
# The quota is known from an earlier run, or else each trial would begin at five calls a second.
RATE = 1000.0

# Where to kill, and the highest number of its occurrence to choose. In the order in which they come.
WRITING = {
    "locking": 1,  # the advisory lock
    "starting": 1,  # the run's row, before its commit
    "started": 1,
    "sharing": 1,  # the learned rate
    "asked": 30,  # a call is out
    "looking": 4,  # answers have arrived, nothing is written
    "writing": 3,  # amid a transaction
    "versioning": 3,
    "recording": 4,  # all of it is written but the run's own row
    "committing": 4,  # before the commit
    "committed": 4,  # after the commit, which nobody has heard of
    "finishing": 1,
    "finished": 1,
}
QUEUEING = {
    "receiving": 3,
    "received": 3,  # handed out, and never heard of
    "deleting": 3,
    "half deleted": 2,
    "deleted": 3,  # and nobody has heard of it
    "hiding": 1,  # a lease is about to be extended
    "hidden": 1,
}
MIGRATING = {"migrating": 9, "migration committing": 1, "migration committed": 1}
# What a trial is of, and where in it there may be a kill.
POINTS = {"file": WRITING, "queue": WRITING | QUEUEING, "migration": MIGRATING}
# What can be migrated: no tables at all, and each version before this one.
OLDER = ["", *sorted(path.name[:4] for path in (migrations() / "versions").glob("0*.py"))[:-1]]

STATEMENTS = (
    ("migrating", re.compile(r"^\s*(CREATE|ALTER|COMMENT|INSERT INTO alembic|UPDATE alembic)")),
    ("locking", re.compile(r"^SELECT pg_try_advisory_xact_lock")),
    ("sharing", re.compile(r"INSERT INTO request_rate")),
    ("writing", re.compile(r"INSERT INTO connection \(|UPDATE connection SET")),
    ("versioning", re.compile(r"INSERT INTO connection_type_history")),
    ("recording", re.compile(r"UPDATE sync_run\s+SET read")),
    ("looking", re.compile(r"SELECT id, arn.*FROM connection\s", re.DOTALL)),
)


class Gone(Severed, Cut):
    """The process is dead: what it has said reaches nobody any more."""


@dataclass(frozen=True, slots=True)
class Kill:
    """When: at the `number`th passing of `point`, or, without a point, of anything; so many seconds later."""

    point: str | None
    number: int
    delay: float = 0.0

    def strikes(self, name: str, passed: Counter[str]) -> bool:
        if self.point is None:
            return passed.total() == self.number
        return name == self.point and passed[name] == self.number


@dataclass(slots=True)
class Figures:
    """What was done, over all trials."""

    trials: int = 0
    starts: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    identifiers: int = 0
    changes: int = 0
    deletes: int = 0


@dataclass(frozen=True, slots=True)
class Ground:
    """What all trials stand on: a Postgres, template databases by version of the schema, a launcher."""

    launcher: Launcher
    server_url: str
    templates: Mapping[str, str]
    folder: Path
    figures: Figures


class Life:
    """One start of the program, with edges of its own to everything, and perhaps a kill to come.

    committing: seconds that each commit takes more.
    """

    def __init__(self, launcher: Launcher, kill: Kill | None, committing: float) -> None:
        self.kill = kill
        self.killed = False
        self.passed: Counter[str] = Counter()
        self._launcher = launcher
        self._committing = committing
        self._later: asyncio.Task[None] | None = None

    def start(self, arguments: Sequence[str], variables: Mapping[str, str], folder: Path) -> None:
        self.running = self._launcher.start(arguments, variables, folder)

    def will(self, point: str) -> bool:
        """Whether this life is to end at `point`, and now."""
        return (
            self.kill is not None and self.kill.point == point and self.passed[point] + 1 == self.kill.number
        )

    async def passing(self, name: str) -> None:
        """Something passes by. Raises `Gone` when it must not, because the process is dead."""
        if self.killed:
            raise Gone
        self.passed[name] += 1
        if self.kill is not None and self.kill.strikes(name, self.passed):
            if self.kill.delay:
                self._later = asyncio.create_task(self._end_after(self.kill.delay))
                return
            await self._end()
            raise Gone

    async def _end_after(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self._end()

    async def _end(self) -> None:
        self.killed = not self.running.ended.is_set()
        if self.killed:
            await self._launcher.kill(self.running)

    async def over(self) -> None:
        """Wait for its end, whatever it is."""
        try:
            await asyncio.wait_for(self.running.ended.wait(), PATIENCE)
        except TimeoutError:
            await self._launcher.kill(self.running)
            raise AssertionError(f"it hangs: {self.running.stderr.read_text()}") from None
        if self._later is not None:
            self._later.cancel()

    async def statement(self, what: str, sql: str, transaction: Transaction) -> None:
        name = _named(what, sql, transaction)
        await self.passing(name)
        if name == "committing":
            # Whoever does not wait for it to be committed is seen by its delete.
            await asyncio.sleep(self._committing)


def _named(what: str, sql: str, transaction: Transaction) -> str:
    """What a statement, or the server's answer to a commit, is to the trial."""
    if sql == "COMMIT":
        done = what == COMMITTED
        if transaction.has("INTO alembic_version") or transaction.has("UPDATE alembic_version"):
            return "migration committed" if done else "migration committing"
        if transaction.has("INSERT INTO sync_run"):
            return "started" if done else "starting"
        if transaction.has("UPDATE sync_run SET status ="):
            return "finished" if done else "finishing"
        if transaction.has("UPDATE sync_run"):
            return "committed" if done else "committing"
    return next((name for name, pattern in STATEMENTS if pattern.search(sql)), "statement")


class Trial:
    """One seed. kind, kill: what it is of, and its only kill, where the seed is not to choose."""

    def __init__(self, ground: Ground, seed: int, kind: str | None = None, kill: Kill | None = None) -> None:
        self.ground = ground
        self.seed = seed
        self.kind = kind or ("migration" if seed % 10 == 9 else "queue" if seed % 2 else "file")
        self.kill = kill
        self.dice = dice = random.Random(seed)
        self.population = Population(dice.randint(20, 60), seed)
        self.told = ledger.Told()
        self.lives: list[tuple[str, Life]] = []
        self.folder = ground.folder / f"seed {seed} {kind} {kill}"
        self.folder.mkdir()
        self.faults = Faults(
            latency=dice.choice((0.0, 0.002)), jitter=dice.choice((0.0, 0.005)),
            error_rate=dice.choice((0.0, 0.02)), cut_rate=dice.choice((0.0, 0.02)), seed=seed,
        )  # fmt: skip
        self.arguments = [
            "--batch-size", str(dice.choice((3, 8, 20))), "--concurrency", str(dice.choice((3, 8, 16))),
        ]  # fmt: skip
        self.committing = dice.choice((0.0, 0.03))
        real = [*self.population.identifiers()]
        never = [self.population.identifier(self.population.size + number) for number in range(2)]
        self.bad = [f"pac-{seed}", "nonsense, pac-AAAAAAAAAAAAA"]
        self.input = [*real, *never, *self.bad, *dice.sample(real, len(real) // 4)]
        dice.shuffle(self.input)
        # At which of the calls something changes; in every third trial nothing does.
        many = range(1, 2 * len(self.input))
        self.changing = set(dice.sample(many, 6)) if seed % 3 else set()
        self.changes = 0
        self.calls = 0
        self.vanished = 0
        self.former: dict[str, Any] = {}
        self.wrong: list[AssertionError] = []
        self.queue: SqsServer | None = None
        self.to_the_dead: Counter[str] = Counter()  # messages handed out to who had not hung up yet
        self.since: dict[str, dict[str, ledger.Answer | None]] = {}

    async def run(self) -> None:
        """Raises `AssertionError` when something is not as it must be."""
        migrates = self.kind == "migration"
        version = self.dice.choice(OLDER) if migrates else "prepared"
        template = self.ground.templates[version]
        async with AsyncExitStack() as stack:
            made = database_on(self.ground.server_url, template)
            _, self.url = await asyncio.to_thread(made.__enter__)
            stack.push_async_callback(asyncio.to_thread, made.__exit__, None, None, None)
            self.database = stack.enter_context(psycopg.connect(self.url, autocommit=True))
            if migrates:
                await self._migrated()
                prepare(self.database)
            if self.kind == "queue":
                await self._worked()
            else:
                await self._synced()
            self.changing.clear()
            await self._failures_once_more()
            assert not self.wrong, self.wrong[0]
            ledger.assert_sound(self.database, self.told)
            ledger.assert_tables(self.database, self.told)
            ledger.assert_runs(self.database, everything_written_once=not self.changes)
            left = {row[0] for row in self.database.execute("SELECT identifier FROM sync_failure")}
            assert left == set(self.bad), "other failures are recorded than there were"
            wanted = {each for each in self.input if CONNECTION_ID.fullmatch(each)}
            assert wanted == set(self.told), "not everything was asked for, or more than was wanted"
        self.ground.figures.trials += 1
        self.ground.figures.identifiers += len(self.input)
        self.ground.figures.changes += self.changes

    @property
    def struck(self) -> bool:
        """Whether any kill came in time."""
        return any(life.killed for _, life in self.lives)

    def told_by_the_lives(self) -> str:
        """How each start of the program went, and the end of what it printed."""
        return "\n".join(
            f"* {started}: {life.kill}, exit {life.running.exit}\n{life.running.stderr.read_text()[-2000:]}"
            for started, life in self.lives
        )

    def clear(self) -> None:
        """Nobody will ask for its files any more."""
        shutil.rmtree(self.folder)
        for _, life in self.lives:
            life.running.stdout.unlink(missing_ok=True)
            life.running.stderr.unlink(missing_ok=True)

    def _kills(self) -> Iterator[Kill]:
        points = POINTS[self.kind]
        if self.kill is not None:
            yield self.kill
            return
        for _ in range(self.dice.randint(1, 4)):
            if self.dice.random() < 0.4:
                point = self.dice.choice([*points])
                yield Kill(point, self.dice.randint(1, points[point]))
            else:
                number = int(self.dice.triangular(1, 150, 40))
                yield Kill(None, number, self.dice.choice((0.0, self.dice.uniform(0.0, 0.02))))

    async def _migrated(self) -> None:
        begun_from = self._version()
        for kill in [*self._kills(), None]:
            life = await self._live(["migrate"], kill)
            assert life.killed or life.running.exit == 0, life.running.stderr.read_text()
            # A migration that dies half-way has not happened.
            assert self._version() in (begun_from, VERSION)
            if begun_from is None and self._version() is None:
                tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
                assert self.database.execute(tables).fetchone() == (0,)
        assert self._version() == VERSION
        with psycopg.connect(
            make_url(self.ground.server_url)
            .set(database=self.ground.templates[VERSION])
            .render_as_string(hide_password=False)
        ) as intended:
            assert schema(self.database) == schema(intended)

    def _version(self) -> str | None:
        if self.database.execute("SELECT to_regclass('alembic_version')").fetchone() == (None,):
            return None
        row = self.database.execute("SELECT version_num FROM alembic_version").fetchone()
        return row[0] if row else None

    async def _synced(self) -> None:
        """A file, with --resume, killed and started again until it is done."""
        (self.folder / "ids.txt").write_text("\n".join(self.input) + "\n")
        kills = self._kills() if self.kind == "file" else iter(())
        while True:
            life = await self._live(
                ["sync", "ids.txt", "--resume", "--json", *self.arguments], next(kills, None)
            )
            ledger.assert_sound(self.database, self.told)
            ledger.assert_checkpoint(self.database, self.told, self.input)
            await self._quiet()
            if life.killed:
                continue
            result = self._result(life)
            if result["status"] != "locked":
                break
        read, checkpoint = self.database.execute(
            "SELECT read, checkpoint FROM sync_run ORDER BY started_at DESC, id DESC LIMIT 1"
        ).fetchone() or (0, 0)
        assert (read, checkpoint) == (len(self.input), len(self.input))

    async def _worked(self) -> None:
        """One or two workers on a queue, killed and started again until it is drained."""
        self.queue = SqsServer(visibility=VISIBILITY, most_receives=100, pace=0.3)
        bodies = [*self.input]
        if self.dice.random() < 0.5:
            some = bodies[:6]
            bodies[:6] = [json.dumps(some)]
        for body in bodies:
            self._send(body)
        count = 1 if self.kill is not None else self.dice.choice((1, 1, 2))
        workers = [self._worker([*self._kills()]) for _ in range(count)]
        await asyncio.gather(*workers)
        # What a worker that died last has left behind.
        while self.queue.depth != (0, 0):
            await self._worker([])
        assert self.queue.dead == []
        kills = sum(life.killed for _, life in self.lives)
        for id, times in self.queue.received.items():
            assert times <= 1 + kills + self.to_the_dead[id], "a message was received for no reason"
        deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        assert self.database.execute(deadlocks).fetchone() == (0,)

    async def _worker(self, kills: Iterable[Kill]) -> None:
        assert self.queue is not None
        for kill in [*kills, None]:
            life = await self._live(["work", "--drain", "--json", *self.arguments], kill)
            ledger.assert_sound(self.database, self.told)
            if life.killed:
                self.queue.pass_time(VISIBILITY)
            else:
                self._result(life)

    async def _failures_once_more(self) -> None:
        """Removals are held back until a run's end; those of a run that died are in the recorded failures."""
        self._result(await self._live(["sync", "--failed", "--json"], None))
        await self._quiet()

    def _result(self, life: Life) -> dict[str, Any]:
        printed = life.running.stderr.read_text()
        assert life.running.exit in (0, 1), printed
        assert "Traceback" not in printed, printed
        result: dict[str, Any] = json.loads(life.running.stdout.read_text())
        return result

    async def _quiet(self) -> None:
        """Until the server has noticed that a process is dead: it lets go of its locks then."""
        there = """SELECT count(*) FROM pg_stat_activity
                   WHERE application_name = 'syncer' AND datname = current_database()"""
        while self.database.execute(there).fetchone() != (0,):  # noqa: ASYNC110  (another process)
            await asyncio.sleep(0.005)

    async def _live(self, arguments: Sequence[str], kill: Kill | None) -> Life:
        """One start of the program, to its end."""
        life = Life(self.ground.launcher, kill, self.committing)
        async with AsyncExitStack() as stack:
            port = await stack.enter_async_context(wire(partial(_connected, self.url), life.statement))
            url = make_url(self.url).set(
                host="127.0.0.1", port=port, query={"sslmode": "disable", "gssencmode": "disable"}
            )
            faults = replace(self.faults, seed=self.dice.getrandbits(32))
            api = Simulator(self.population, faults, answer=partial(self._answer, life))
            variables = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
            variables |= environment(await stack.enter_async_context(api.serving()))
            variables["DATABASE_URL"] = url.render_as_string(hide_password=False)
            if self.queue is not None:
                queue_url = await stack.enter_async_context(self.queue.serving(partial(self._queue, life)))
                variables["SYNCER_QUEUE_URL"] = queue_url
                variables["AWS_ENDPOINT_URL_SQS"] = queue_url.partition("/1234")[0]
            life.start(arguments, variables, self.folder)
            self.lives.append((" ".join(arguments), life))
            await life.over()
        self.ground.figures.starts += 1
        if life.killed and kill is not None:
            self.ground.figures.kills[kill.point or "any moment"] += 1
        return life

    async def _answer(
        self, life: Life, operation: str, request: dict[str, Any]
    ) -> web.Response | dict[str, Any] | None:
        if operation != GET:
            return None
        try:
            await life.passing("asked")
        except Gone:
            return web.Response(status=500)
        self.calls += 1
        if self.calls in self.changing:
            self._change()
        identifier = request["Identifier"]
        if life.kill is not None and life.kill.point in ("hiding", "hidden") and life.passed["asked"] == 1:
            # So long that the lease has to be extended.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(life.running.ended.wait(), VISIBILITY)
        answer = self.population.get(identifier)
        # A replica that lags behind. Only where better is stored: nobody can know what was told to the dead.
        # And not on the queue: what was said of an event is believed.
        if self.queue is None and identifier in self.former and self._is_stored(answer):
            answer = self.former[identifier]
        self.told.tell(identifier, answer)
        return answer

    def _is_stored(self, answer: ledger.Answer | None) -> bool:
        return (
            answer is not None
            and self.database.execute(
                "SELECT FROM connection WHERE id = %s AND updated_at = %s AND removed_at IS NULL",
                (answer["Id"], ledger.moment(answer)),
            ).fetchone()
            is not None
        )

    def _change(self) -> None:
        """One of the connections changes; an event tells of it, where there is a queue."""
        self.changes += 1
        identifier = self.population.identifier(self.dice.randrange(self.population.size))
        old: Any = self.population.get(identifier)
        new = copy.deepcopy(old or self.former[identifier])
        new["UpdatedAt"] = (ledger.moment(new) + timedelta(seconds=self.dice.randint(1, 9))).isoformat()
        name, detail = self.dice.choice([*new["ConnectionTypes"].items()])
        match self.dice.randrange(5):
            case 0:
                detail["Status"] = "CANCELED"
            case 1:
                detail["InviterName"] = f"Somebody {self.changes}"
            case 2:
                ((_, participant),) = detail["OtherParticipant"].items()
                participant["Name"] = f"Renamed {self.changes}"
            case 3:
                new["ConnectionTypes"]["NEW_TYPE"] = new["ConnectionTypes"].pop(name)
            case 4 if old is not None and self.vanished < 3:
                self.vanished += 1
                new = None
        if old is not None:
            self.former[identifier] = old
        self.population.overrides[identifier] = new
        if self.queue is not None:
            self._send(json.dumps({"id": identifier}))

    def _send(self, body: str) -> None:
        assert self.queue is not None
        sent = self.queue.send(body)
        self.since[sent.id] = {each: self.population.get(each) for each in _identifiers(body)}

    async def _queue(
        self, life: Life, operation: str, request: dict[str, Any], answer: dict[str, Any] | None
    ) -> None:
        assert self.queue is not None
        match operation, answer:
            case "ReceiveMessage", None:
                await life.passing("receiving")
            case "ReceiveMessage", {"Messages": [_, *_] as messages}:
                self._handed_out(life, messages)
                await life.passing("received")
            case "DeleteMessageBatch", None:
                await life.passing("deleting")
                held = [self.queue.held(entry["ReceiptHandle"]) for entry in request["Entries"]]
                for message in filter(None, held):
                    self._deleting(message)
                if life.will("half deleted"):
                    for entry in request["Entries"][::2]:
                        self.queue.delete(entry)
                await life.passing("half deleted")
            case "DeleteMessageBatch", _:
                await life.passing("deleted")
            case "ChangeMessageVisibilityBatch", None:
                await life.passing("hiding")
            case "ChangeMessageVisibilityBatch", _:
                await life.passing("hidden")

    def _handed_out(self, life: Life, messages: Iterable[Mapping[str, Any]]) -> None:
        if life.killed:
            self.to_the_dead.update(each["MessageId"] for each in messages)

    def _deleting(self, message: Message) -> None:
        self.ground.figures.deletes += 1
        try:
            ledger.assert_deletable(
                self.database, self.told, _identifiers(message.body), self.since[message.id]
            )
        except AssertionError as error:
            self.wrong.append(error)


def _identifiers(body: str) -> list[str]:
    """The IDs in a message's body, and what should have been IDs."""
    if body.startswith("{"):
        return [json.loads(body)["id"]]
    return json.loads(body) if body.startswith("[") else [body]


async def _connected(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to the Postgres at `url`, for the proxy."""
    parsed = make_url(url)
    host, port = (
        str(parsed.query.get("host") or parsed.host),
        int(str(parsed.query.get("port") or parsed.port or 5432)),
    )
    if host.startswith("/"):
        return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
    return await asyncio.open_connection(host, port)


def prepare(database: psycopg.Connection[Any]) -> None:
    """Let `database` note what no writer may do, and know the quota."""
    database.execute(ledger.WATCHED.encode())
    row, _ = exchange(None, Report("earlier", RATE, 0.0, 0, None, 0, None, leaving=True), time.time())
    database.execute(
        "INSERT INTO request_rate (account_id, catalog, operation, rate, state, version, learned_at)"
        " VALUES (%s, 'AWS', %s, %s, %s, 1, now())",
        (OWN_ACCOUNT, GET, RATE, Jsonb(row)),
    )


def schema(database: psycopg.Connection[Any]) -> set[tuple[Any, ...]]:
    """Columns, indexes and constraints, to compare two databases by."""
    return set(
        database.execute(
            """SELECT table_name, column_name, data_type, is_nullable, column_default
               FROM information_schema.columns WHERE table_schema = 'public'
               UNION ALL SELECT tablename, indexname, indexdef, '', ''
               FROM pg_indexes WHERE schemaname = 'public'
               UNION ALL SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid), '', ''
               FROM pg_constraint WHERE connamespace = 'public'::regnamespace"""
        ).fetchall()
    )


@contextmanager
def templates(server_url: str) -> Iterator[Mapping[str, str]]:
    """Names of databases to copy, by the version of their schema; `prepared`: the newest, for a trial."""
    made = {"": "template1"}
    with contextlib.ExitStack() as stack:
        for version in (*OLDER[1:], VERSION, "prepared"):
            made[version], url = stack.enter_context(database_on(server_url))
            engine = create_engine(make_url(url).set(drivername="postgresql+psycopg"))
            with engine.connect() as connection:
                config = Config(attributes={"connection": connection})
                config.set_main_option("script_location", str(migrations()).replace("%", "%%"))
                command.upgrade(config, VERSION if version == "prepared" else version)
            engine.dispose()
            if version == "prepared":
                with psycopg.connect(url) as database:
                    prepare(database)
        yield made


@asynccontextmanager
async def ground(server_url: str) -> AsyncIterator[Ground]:
    with tempfile.TemporaryDirectory(prefix="syncer-crashes-") as name, templates(server_url) as made:
        folder = Path(name)
        async with launching(folder) as launcher:
            yield Ground(launcher, server_url, made, folder, Figures())


async def crash(on: Ground, seeds: Iterable[int], at_once: int = AT_ONCE) -> dict[int, str]:
    """Play the trials of `seeds`; of those that failed, what went wrong."""
    failed: dict[int, str] = {}
    waiting = iter(seeds)

    async def some() -> None:
        for seed in waiting:
            trial = Trial(on, seed)
            try:
                await trial.run()
            except Exception:  # noqa: BLE001  (one trial that breaks must not hide the others)
                failed[seed] = f"{traceback.format_exc()}\n{trial.told_by_the_lives()}"
            trial.clear()

    await asyncio.gather(*(some() for _ in range(at_once)))
    return failed


async def _main(given: Sequence[int], at_once: int, minutes: float) -> int:
    began = time.monotonic()
    begun = 0

    def seeds() -> Iterator[int]:
        nonlocal begun
        for begun, seed in enumerate(given, 1):  # noqa: B007  (told at the end)
            yield seed
            if time.monotonic() - began > 60 * minutes:
                return

    with server() as url:
        async with ground(url) as on:
            failed = await crash(on, seeds(), at_once)
            figures = on.figures
    seconds = time.monotonic() - began
    for seed, what in failed.items():
        print(f"--- seed {seed} failed; again: {AGAIN} {seed}\n{what}")
    print(
        f"{figures.trials} of {begun} seeds hold: {figures.kills.total()} kills "
        f"in {figures.starts} starts, {figures.identifiers} IDs, {figures.changes} changes amid it, "
        f"{figures.deletes} messages deleted, in {seconds:.0f} s"
    )
    print(", ".join(f"{point} {times}" for point, times in figures.kills.most_common()))
    return 1 if failed else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="kill -9 until something is lost")
    parser.add_argument("--seeds", type=int, default=200, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--minutes", type=float, default=inf, help="begin none after so many")
    parser.add_argument("--at-once", type=int, default=AT_ONCE)
    given = parser.parse_args()
    chosen = range(given.first, given.first + given.seeds) if given.seed is None else [given.seed]
    sys.exit(asyncio.run(_main(chosen, given.at_once, given.minutes)))
