"""What a fault is tried on: the program, an API, a database, a queue, and what gets in the way of each."""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url

from syncer.demo import environment
from syncer.outcomes import Outcome
from syncer.partner_central.population import Population
from syncer.partner_central.simulator import Faults, Simulator
from syncer.store.embedded import Embedded
from tests.conftest import Finished, Program, Queues, finished, ids_file, rows, until
from tests.faults.proxy import NONE, Proxy
from tests.test_sync import assert_in_step

IDS = 60
PASSWORD = "not-a-secret"
# Small steps, so that there is a middle to be in.
STEPS = ("--concurrency", "4", "--batch-size", "5")


@dataclass(slots=True)
class Scene:
    """One trial.

    url: of the database, past its proxy. user: the program's role there. lifting: undone before the healthy
    run. ending: undone after it.
    """

    program: Program
    population: Population
    simulator: Simulator
    api: Proxy
    database: Proxy
    url: str
    user: str
    queue: Queues | None
    queue_proxy: Proxy | None
    own: Embedded | None
    lifting: AsyncExitStack
    ending: AsyncExitStack
    stderr: list[bytes] = field(default_factory=list)

    @property
    def bad(self) -> str:
        """The one ID that something is wrong with, where it is about one."""
        return self.population.identifier(1)

    def command(self, *arguments: str) -> tuple[str, ...]:
        first = ("work", "--drain") if self.queue else ("sync", "ids.txt")
        return (*first, *STEPS, "--json", *arguments)

    async def run(self, *arguments: str) -> Finished:
        return await self.program(*self.command(*arguments))

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        """The program, once it has written something. The API takes its time, so that more is to come."""
        self.simulator.faults = Faults(latency=0.1)
        process = await self.program.start(*self.command(*arguments))
        await until(lambda: rows(self.url, "SELECT count(*) > 0 FROM connection") == [(True,)])
        return process

    async def reads(self, process: asyncio.subprocess.Process, event: str) -> None:
        """Wait for the log event."""
        assert process.stderr is not None
        while event.encode() not in (line := await process.stderr.readline()):
            assert line, f"ended without {event}: {b''.join(self.stderr).decode()}"
            self.stderr.append(line)
        self.stderr.append(line)

    async def end(self, process: asyncio.subprocess.Process) -> Finished:
        done = await finished(process)
        return Finished(done.exit, done.stdout, b"".join(self.stderr).decode() + done.stderr)

    def execute(self, statement: str) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(statement.encode())

    def role(self, change: str, *, back: str) -> None:
        """Change the program's role, for new connections; put back when the fault is lifted."""
        self.execute(f"ALTER ROLE {self.user} {change}")
        self.lifting.callback(self.execute, f"ALTER ROLE {self.user} {back}")

    @contextmanager
    def holding(self, statement: str) -> Iterator[None]:
        """Another session is in the middle of a transaction that began with `statement`."""
        with psycopg.connect(self.url) as connection:
            connection.execute(statement.encode())
            yield
            connection.rollback()

    @property
    def data(self) -> Path:
        """The folder of a server of its own."""
        assert self.own is not None
        return self.own.folder / "data"

    def server(self, *arguments: str) -> None:
        """`pg_ctl`, as the account that the server runs as."""
        assert self.own is not None
        owner = self.data.stat()
        pg_ctl = [str(self.own.psql.with_name("pg_ctl")), "-D", "data", "-w", "-s", "-l", "data/log"]
        subprocess.run(
            [*pg_ctl, *arguments],
            cwd=self.own.folder, user=owner.st_uid, group=owner.st_gid, extra_groups=[],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip

    def small_disk(self) -> "Disk":
        """A disk of a few MiB, and the tables are on it."""
        assert self.own is not None
        place = self.own.folder / "small"
        place.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)]
        if subprocess.run(mount, check=False, capture_output=True).returncode:
            pytest.skip("only root can mount a small disk")
        self.ending.callback(subprocess.run, ["umount", "--lazy", str(place)], check=True)
        os.chown(place, self.data.stat().st_uid, self.data.stat().st_gid)
        self.execute(f"CREATE TABLESPACE small LOCATION '{place}'")
        for table in ("connection", "connection_type", "participant", "connection_type_history"):
            self.execute(f"ALTER TABLE {table} SET TABLESPACE small")
        return Disk(place)

    async def lift(self) -> None:
        """Nothing gets in the way any more."""
        await self.lifting.aclose()
        self.simulator.answer, self.simulator.faults = None, Faults()
        for proxy in (self.api, self.database, self.queue_proxy):
            if proxy is not None:
                proxy.trouble = NONE
                await proxy.accept()

    def assert_ledger(self, done: Finished, expected: Mapping[Outcome, int | None]) -> None:
        """Each ID read is in one outcome, and what the outcomes, the run's row and the tables say agrees.

        expected: how often each outcome came up; None: some number. What is not named did not.
        """
        result = done.result
        counts = {outcome: result[outcome.value] for outcome in Outcome}
        assert result["read"] == sum(counts.values())
        for outcome, count in counts.items():
            if outcome not in expected:
                assert count == 0, (outcome, result)
            elif (number := expected[outcome]) is not None:
                assert count == number, (outcome, result)
            elif outcome is Outcome.RELEASED:
                assert count > 0, result
        if self.queue is None:
            assert result["read"] <= IDS
        stored = {identifier for (identifier,) in rows(self.url, "SELECT id FROM connection")}
        failures = {identifier for (identifier,) in rows(self.url, "SELECT identifier FROM sync_failure")}
        assert not stored & failures
        assert len(failures) == counts[Outcome.FAILED] + counts[Outcome.INVALID]
        # Committed, though the answer to the commit was lost: then it is stored, but was not told of.
        assert len(stored) >= counts[Outcome.WRITTEN]
        settled = stored | failures
        for read, checkpoint in rows(self.url, "SELECT read, checkpoint FROM sync_run"):
            assert {*list(self.population.identifiers())[:checkpoint]} <= settled, (read, checkpoint)

    async def assert_whole_after(self) -> None:
        """With the fault lifted, the next run puts all of it in step."""
        done = await self.run()
        if self.queue is not None:
            assert self.queue.left() == self.queue.left(self.queue.dead_url) == 0
        else:
            assert done.result["read"] == IDS
        assert done.exit == 0, done.stderr
        assert_in_step(self.url, self.population)
        assert rows(self.url, "SELECT count(*) FROM sync_failure") == [(0,)]
        assert rows(self.url, "SELECT count(*) FROM connection_type_history WHERE valid_to IS NOT NULL") == [
            (0,)
        ]


@dataclass(frozen=True, slots=True)
class Disk:
    place: Path

    def fill(self) -> None:
        with suppress(OSError), (self.place / "filler").open("wb", buffering=0) as filler:
            while filler.write(bytes(8192)):
                pass

    def clear(self) -> None:
        (self.place / "filler").unlink()


@asynccontextmanager
async def scene(
    program: Program, url: str, *, seed: int, queue: Queues | None = None, own: Embedded | None = None
) -> AsyncIterator[Scene]:
    """A scene in which nothing is wrong yet."""
    population = Population(IDS, seed=seed)
    ids_file(program.folder, population)
    simulator = Simulator(population)
    async with AsyncExitStack() as stack:
        serving = await stack.enter_async_context(simulator.serving())
        api = await stack.enter_async_context(Proxy(_address(serving)).serving())
        database = await stack.enter_async_context(Proxy(_server(url)).serving())
        before_queue = None
        if queue is not None:
            queue.send(*population.identifiers())
            endpoint = program.environment["AWS_ENDPOINT_URL_SQS"]
            before_queue = await stack.enter_async_context(Proxy(_address(endpoint)).serving())
            program.environment["AWS_ENDPOINT_URL_SQS"] = f"http://127.0.0.1:{before_queue.port}"
        program.environment |= environment(f"http://127.0.0.1:{api.port}")
        user = stack.enter_context(_role(url))
        program.environment["DATABASE_URL"] = through(database, url, user)
        lifting = await stack.enter_async_context(AsyncExitStack())
        yield Scene(
            program, population, simulator, api, database, url, user, queue, before_queue, own, lifting, stack
        )


def through(proxy: Proxy, url: str, user: str) -> str:
    """`url`, by way of `proxy`, as `user`."""
    changed = make_url(url).set(host="127.0.0.1", port=proxy.port, username=user, password=PASSWORD)
    return changed.difference_update_query(["host", "port"]).render_as_string(hide_password=False)


@contextmanager
def _role(url: str) -> Iterator[str]:
    """A role that may do what the program needs, and no more."""
    name = f"{make_url(url).database}_worker"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'".encode())
        connection.execute(
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {name}".encode()
        )
    try:
        yield name
    finally:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f"DROP OWNED BY {name}; DROP ROLE {name}".encode())


def _server(url: str) -> tuple[str, int] | str:
    parsed = make_url(url)
    folder = parsed.query.get("host")
    port = parsed.port or 5432
    return f"{folder}/.s.PGSQL.{port}" if isinstance(folder, str) else (parsed.host or "127.0.0.1", port)


def _address(endpoint: str) -> tuple[str, int]:
    host, _, port = endpoint.removeprefix("http://").partition(":")
    return host, int(port)
