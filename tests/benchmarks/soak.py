"""A worker under mixed load and trouble, for an hour: what it holds on to must not grow.

    .venv/bin/python tests/benchmarks/soak.py [--seconds 3600] [--plot tests/benchmarks/soak.svg]

A worker on a queue of events; scheduled syncs beside it; connections that change, are canceled and vanish;
a quota; every few seconds another fault: of the API, of the database, of the queue; the database restarted
once a minute. Each second the kernel and Postgres are asked what the worker holds: memory, file descriptors,
connections; and how many dead tuples there are. At the end all faults are lifted, the queue is drained, and
the tables are what is served.

Exit code 1 where something grew, was lost, or ended in a traceback.
"""

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import psycopg
from aiohttp import web
from sqlalchemy import make_url

from syncer.demo import environment
from syncer.partner_central.population import Population
from syncer.partner_central.simulator import Faults, Simulator
from syncer.store.embedded import Embedded, embedded
from syncer.store.schema import migrate
from tests.faults.proxy import NONE, Address, Proxy, Trouble
from tests.sqs_server import SqsServer
from tests.test_sync import assert_in_step

CONNECTIONS = 800
# So many connections to the API are kept open, sooner or later: a small number, so that it is sooner.
CONCURRENCY = "8"
EVENTS_PER_SECOND = 15
# Seconds between scheduled syncs, between faults (and how long one lasts), between restarts of the database.
SYNC_EVERY, FAULT_EVERY, FAULT_LASTS, RESTART_EVERY = 7.0, 6.0, 3.0, 60.0
USUAL = Faults(rate=60, burst=30, latency=0.02, jitter=0.02, error_rate=0.01)

# So much of the time is warming up: caches fill, pools open.
WARMING_UP = 0.2
DEAD = "SELECT coalesce(sum(n_dead_tup), 0) FROM pg_stat_user_tables"
OPEN = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'syncer'"


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that must stay flat. slack: what it may grow by, besides `share`."""

    name: str
    unit: str
    slack: float
    share: float = 0.0


# What leaks is there even when there is least to do: so the floor of each half is compared. Peaks say nothing
# (a slow API has more calls in flight, a scheduled sync more connections open); the plot shows them.
LINES = (
    Line("memory of the worker", "MiB", slack=4, share=0.05),
    # Pools of connections to the API and the queue fill up as calls overlap, in a minute's run in its second
    # half. A leak goes beyond what they hold.
    Line("its file descriptors", "", slack=16),
    # The scheduled syncs' connections are among them while one runs.
    Line("database connections", "", slack=2),
    # Vacuum takes them away a fifth of a table at a time.
    Line("dead tuples", "", slack=400, share=0.5),
)


@dataclass(slots=True)
class Seen:
    """Samples: seconds since the beginning, and a value per line; None while it could not be asked."""

    times: list[float] = field(default_factory=list)
    values: list[tuple[float | None, ...]] = field(default_factory=list)
    restarts: list[float] = field(default_factory=list)

    def halves(self, line: int) -> tuple[float, float]:
        """The floor (a tenth of all from below) of the first and of the second half, once warmed up."""
        begin, end = self.times[-1] * WARMING_UP, self.times[-1]
        middle = (begin + end) / 2
        parts: tuple[list[float], list[float]] = [], []
        for at, values in zip(self.times, self.values, strict=True):
            value = values[line]
            if at >= begin and value is not None:
                parts[at > middle].append(value)
        return _floor(parts[0]), _floor(parts[1])


def _floor(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 10]


class Soak:
    """The parts, and what they are asked to do."""

    def __init__(self, folder: Path, database: Embedded, seconds: float, seed: int) -> None:
        self.folder = folder
        self.database = database
        self.seconds = seconds
        self.dice = random.Random(seed)
        self.population = Population(CONNECTIONS, seed=seed)
        self.api = Simulator(self.population, USUAL)
        self.queue = SqsServer(visibility=10)
        self.seen = Seen()
        self.counts: Counter[str] = Counter()
        self.complaints: list[str] = []
        self.began = time.monotonic()
        self.queue_at = ""
        self.environment: dict[str, str] = {}
        self.proxies: dict[str, Proxy] = {}

    @property
    def now(self) -> float:
        return time.monotonic() - self.began

    async def run(self) -> None:
        async with AsyncExitStack() as stack:
            api = await stack.enter_async_context(self.api.serving())
            queue = await stack.enter_async_context(self.queue.serving())
            host, _, name = queue.partition("/123")
            self.queue_at = f"{host}/"
            socket = make_url(self.database.url).query["host"]
            upstreams: dict[str, Address] = {
                "api": _address(api),
                "queue": _address(host),
                "database": f"{socket}/.s.PGSQL.5432",
            }
            for part, upstream in upstreams.items():
                self.proxies[part] = await stack.enter_async_context(Proxy(upstream).serving())
            ports = {part: proxy.port for part, proxy in self.proxies.items()}
            self.environment = os.environ | environment(f"http://127.0.0.1:{ports['api']}") | {
                "AWS_ENDPOINT_URL_SQS": f"http://127.0.0.1:{ports['queue']}",
                "SYNCER_QUEUE_URL": f"http://127.0.0.1:{ports['queue']}/123{name}",
                "DATABASE_URL": f"postgresql://postgres@127.0.0.1:{ports['database']}/postgres",
            }  # fmt: skip
            await self._first_load()
            worker = await self._start("work", "--concurrency", CONCURRENCY)
            telling = asyncio.create_task(self._heard(worker))
            self.began = time.monotonic()
            tasks = [
                asyncio.create_task(task)
                for task in (self._feed(), self._syncs(), self._faults(), self._restarts())
            ]
            await self._sample(worker.pid)
            for task in tasks:
                task.cancel()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(result, Exception):
                    self.complaints.append(f"{type(result).__name__}: {result}")
            self._lift()
            if worker.returncode is None:
                worker.terminate()
            await telling
            if worker.returncode != 143:
                self.complaints.append(f"the worker ended with {worker.returncode}")
            await self._put_in_step()

    async def _first_load(self) -> None:
        # From a file: canceled connections are not listed.
        ids = self.folder / "ids.txt"
        await asyncio.to_thread(ids.write_text, "\n".join(self.population.identifiers()))
        code, said = await self._syncer("sync", ids.name)
        if code:
            raise SystemExit(f"the first load ended with {code}: {said[-2000:]}")

    async def _start(self, *arguments: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "syncer", *arguments, cwd=self.folder, env=self.environment,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip

    async def _heard(self, process: asyncio.subprocess.Process) -> str:
        """What it says, its last words only; every event counted."""
        assert process.stderr is not None
        last = ""
        async for raw in process.stderr:
            last = raw.decode()
            if last.startswith("{"):
                self.counts[str(json.loads(last)["event"])] += 1
            elif "Traceback" in last:
                self.complaints.append("a traceback")
        await process.wait()
        return last

    async def _syncer(self, *arguments: str) -> tuple[int, str]:
        process = await self._start(*arguments)
        try:
            said = await self._heard(process)
        except asyncio.CancelledError:
            process.terminate()
            await process.wait()
            raise
        assert process.returncode is not None
        return process.returncode, said

    async def _feed(self) -> None:
        """Events, many of them about something that has just changed, and some about nothing of ours."""
        while True:
            events = [_event(self._changed()) for _ in range(EVENTS_PER_SECOND // 3)]
            await self._send([*events, _invitation()])
            await asyncio.sleep(1 / 3)

    async def _send(self, events: Iterable[dict[str, Any]]) -> None:
        """Up to ten events, past the proxy."""
        entries = [{"Id": str(n), "MessageBody": json.dumps(event)} for n, event in enumerate(events)]
        headers = {"X-Amz-Target": "AmazonSQS.SendMessageBatch"}
        async with (
            aiohttp.ClientSession(headers=headers) as client,
            client.post(self.queue_at, json={"Entries": entries}) as answer,
        ):
            await answer.read()
        self.counts["messages sent"] += len(entries)

    def _changed(self) -> str:
        """A connection; every other time, the answer for it changes first."""
        number = self.dice.randrange(CONNECTIONS)
        identifier = self.population.identifier(number)
        if self.dice.random() < 0.5:
            # A few are gone for good; never so many at once that nobody would believe it.
            if number % 50 == 0:
                self.population.overrides[identifier] = None
            else:
                answer = self.population.connection(number)
                answer["UpdatedAt"] = datetime.now(UTC).isoformat().replace("+00:00", "Z")
                detail = next(iter(answer["ConnectionTypes"].values()))
                detail["Status"] = "CANCELED" if self.dice.random() < 0.2 else "ACTIVE"
                self.population.overrides[identifier] = answer
        return identifier

    async def _syncs(self) -> None:
        for number in range(10**9):
            await asyncio.sleep(SYNC_EVERY)
            arguments = ("--full", "--max-runtime", "30") if number % 5 == 4 else ("--max-runtime", "30")
            code, said = await self._syncer("sync", *arguments)
            self.counts[f"syncs ended with {code}"] += 1
            if code not in (0, 1, 75, 77):
                self.complaints.append(f"a sync ended with {code}: {said}")

    async def _faults(self) -> None:
        while True:
            await asyncio.sleep(FAULT_EVERY - FAULT_LASTS)
            fault = self.dice.choice(list(FAULTS))
            self.counts[f"fault: {fault}"] += 1
            FAULTS[fault](self)
            await asyncio.sleep(FAULT_LASTS)
            self._lift()
            for proxy in self.proxies.values():
                await proxy.accept()

    def _lift(self) -> None:
        self.api.faults, self.api.answer = USUAL, None
        for proxy in self.proxies.values():
            proxy.trouble = NONE

    async def _restarts(self) -> None:
        # In a short run there are two of them all the same.
        every = min(RESTART_EVERY, self.seconds / 3)
        data = self.database.folder / "data"
        owner = data.stat()
        command = [str(self.database.psql.with_name("pg_ctl")), "-D", "data", "-w", "-s", "-l", "data/log"]
        while True:
            await asyncio.sleep(every)
            self.seen.restarts.append(self.now)
            restart = await asyncio.create_subprocess_exec(
                *command, "-m", "fast", "restart", cwd=self.database.folder,
                user=owner.st_uid, group=owner.st_gid, extra_groups=[], stdout=subprocess.DEVNULL,
            )  # fmt: skip
            if await restart.wait():
                raise SystemExit("the database does not restart")

    async def _sample(self, worker: int) -> None:
        while self.now < self.seconds:
            await asyncio.sleep(1)
            held = await asyncio.to_thread(self._held, worker)
            if held is None:
                self.complaints.append("the worker has ended by itself")
                return
            self.seen.times.append(self.now)
            self.seen.values.append((*held, *await asyncio.to_thread(self._ask_database)))

    @staticmethod
    def _held(process: int) -> tuple[float, int] | None:
        """Resident memory in MiB, and file descriptors, as the kernel tells; None when it has ended."""
        try:
            pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
            return pages * os.sysconf("SC_PAGE_SIZE") / 2**20, len([*Path(f"/proc/{process}/fd").iterdir()])
        except (OSError, IndexError):
            return None

    def _ask_database(self) -> tuple[float | None, float | None]:
        try:
            with psycopg.connect(self.database.url, connect_timeout=2) as connection:
                (opened,) = connection.execute(OPEN).fetchone() or (None,)
                (dead,) = connection.execute(DEAD).fetchone() or (None,)
        except psycopg.Error:
            return None, None  # it is being restarted
        return float(opened or 0), float(dead or 0)

    async def _put_in_step(self) -> None:
        for proxy in self.proxies.values():
            await proxy.accept()
        self.api.faults = Faults()
        # What was gone comes back, and is told of: then the tables are what is served, and nothing else.
        back = [each for each, answer in self.population.overrides.items() if answer is None]
        for identifier in back:
            del self.population.overrides[identifier]
        for start in range(0, len(back), 10):
            await self._send(map(_event, back[start : start + 10]))
        code, said = await self._syncer("work", "--drain")
        if code:
            self.complaints.append(f"draining ended with {code}: {said}")
        if any(self.queue.depth) or self.queue.dead:
            self.complaints.append(f"left on the queue: {self.queue.depth}, dead: {len(self.queue.dead)}")
        code, said = await self._syncer("sync", "--full")
        if code:
            self.complaints.append(f"the last sync ended with {code}: {said}")
        try:
            assert_in_step(self.database.url, self.population)
        except AssertionError:
            self.complaints.append("the tables are not what is served")


def _slow(soak: Soak) -> None:
    soak.api.faults = Faults(latency=1.0, jitter=0.5)


def _throttling(soak: Soak) -> None:
    soak.api.faults = Faults(rate=5, burst=1, latency=0.02)


def _failing(soak: Soak) -> None:
    soak.api.faults = Faults(error_rate=0.5, cut_rate=0.2, latency=0.02)


def _expired(soak: Soak) -> None:
    soak.api.answer = lambda *_: web.json_response({"__type": "ExpiredTokenException"}, status=400)


def _html(soak: Soak) -> None:
    soak.api.answer = lambda *_: web.Response(body=b"<html>Maintenance</html>", status=503)


FAULTS: dict[str, Callable[[Soak], None]] = {
    "the API is slow": _slow,
    "5 calls/s are left": _throttling,
    "the API fails and cuts": _failing,
    "credentials have expired": _expired,
    "503 and HTML": _html,
    "the API is silent": lambda soak: _trouble(soak, "api", Trouble(silent=True)),
    "the API's connections are cut": lambda soak: soak.proxies["api"].cut(),
    "answers of the database are late": lambda soak: _trouble(soak, "database", Trouble(latency=0.02)),
    "the database is silent": lambda soak: _trouble(soak, "database", Trouble(silent=True)),
    "the database's connections are cut": lambda soak: soak.proxies["database"].cut(),
    "the answers to COMMIT are lost": lambda soak: _trouble(
        soak, "database", Trouble(cut_before=b"COMMIT\0", times=3)
    ),
    "the queue's connections are cut": lambda soak: soak.proxies["queue"].cut(),
    "the queue's answers are cut": lambda soak: _trouble(soak, "queue", Trouble(cut_after=500, times=4)),
}


def _trouble(soak: Soak, part: str, trouble: Trouble) -> None:
    soak.proxies[part].trouble = trouble


def _event(identifier: str) -> dict[str, Any]:
    return {
        "source": "aws.partnercentral-account",
        "detail-type": "Partner Connection Invitation Accepted",
        "detail": {"catalog": "AWS", "connection": {"id": identifier}},
    }


def _invitation() -> dict[str, Any]:
    return {
        "source": "aws.partnercentral-account",
        "detail-type": "Partner Connection Invitation Received",
        "detail": {"catalog": "AWS", "connectionInvitation": {"id": "pacinv-1"}},
    }


def _address(endpoint: str) -> tuple[str, int]:
    host, _, port = endpoint.removeprefix("http://").partition(":")
    return host, int(port)


WIDTH, PANEL, LEFT, RIGHT, TOP, GAP = 860, 110, 64, 24, 52, 44
FONT = 'font-family="system-ui, sans-serif" font-size="13" role="img"'
COLOURS = ("#0a84d0", "#12a06a", "#9b6fd6", "#c08a00")
STYLE = """<style>
  text { fill: #57606a } .restart { stroke: #8b949e; stroke-opacity: 0.35 } .axis { stroke: #8b949e }
  @media (prefers-color-scheme: dark) { text { fill: #b1bac4 } }
</style>"""
POINTS = 400


def plot(seen: Seen, title: str) -> str:
    """A panel per line, each from 0 up; the thin lines are restarts of the database."""
    longest = seen.times[-1]
    across = (WIDTH - LEFT - RIGHT) / longest
    height = TOP + len(LINES) * (PANEL + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" {FONT}>',
        f"<title>{title}</title>",
        STYLE,
        f'<text x="{LEFT}" y="22" font-weight="600">{title}</text>',
    ]
    for number, line in enumerate(LINES):
        parts += _panel(seen, number, line, TOP + number * (PANEL + GAP) + PANEL, across)
    return "\n".join([*parts, "</svg>", ""])


def _panel(seen: Seen, number: int, line: Line, bottom: float, across: float) -> Iterator[str]:
    values = [values[number] for values in seen.values]
    most = max((value for value in values if value is not None), default=1.0) or 1.0
    first, second = seen.halves(number)
    unit = f" {line.unit}" if line.unit else ""
    told = f"{line.name}: at most {most:,.0f}{unit}; the halves' floor {first:,.0f} and {second:,.0f}{unit}"
    yield f'<text x="{LEFT}" y="{bottom - PANEL - 6:.0f}">{told}</text>'
    yield f'<text x="{LEFT - 8}" y="{bottom + 4:.0f}" text-anchor="end">0</text>'
    yield f'<text x="{LEFT - 8}" y="{bottom - PANEL + 8:.0f}" text-anchor="end">{most:,.0f}</text>'
    for at in seen.restarts:
        x = LEFT + at * across
        yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{bottom - PANEL:.0f}" y2="{bottom:.0f}" class="restart"/>'
    yield f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{bottom:.0f}" y2="{bottom:.0f}" class="axis"/>'
    known = [(at, value) for at, value in zip(seen.times, values, strict=True) if value is not None]
    every = max(len(known) // POINTS, 1)
    # The most of each stretch: a thinned-out plot must not hide a peak.
    stretches = [known[start : start + every] for start in range(0, len(known), every)]
    points = [max(stretch, key=lambda each: each[1]) for stretch in stretches]
    path = " ".join(f"{LEFT + at * across:.1f},{bottom - value / most * PANEL:.1f}" for at, value in points)
    yield f'<polyline points="{path}" fill="none" stroke="{COLOURS[number]}" stroke-width="1.8"/>'
    if number == len(LINES) - 1:
        step = next(s for s in (10, 30, 60, 300, 600, 1200, 3600) if seen.times[-1] / s <= 9 or s == 3600)
        for tick in range(int(seen.times[-1] / step) + 1):
            words = f"{tick * step // 60} min" if step >= 60 else f"{tick * step} s"
            x = LEFT + tick * step * across
            yield f'<text x="{x:.1f}" y="{bottom + 18:.0f}" text-anchor="middle">{words}</text>'


def growth(seen: Seen) -> Iterator[tuple[str, bool]]:
    """Each line's figures, and whether it stayed flat."""
    for number, line in enumerate(LINES):
        first, second = seen.halves(number)
        flat = second <= first * (1 + line.share) + line.slack
        yield f"{line.name}: {first:,.1f} then {second:,.1f} {line.unit}".rstrip(), flat


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plot", type=Path, metavar="FILE.svg")
    given = parser.parse_args(arguments)
    with (
        tempfile.TemporaryDirectory() as folder,
        tempfile.TemporaryDirectory() as database_folder,
        embedded(Path(database_folder)) as database,
    ):
        asyncio.run(migrate(database.url))
        with psycopg.connect(database.url, autocommit=True) as connection:
            # Vacuum looks every few seconds: a minute here stands for many.
            connection.execute("ALTER SYSTEM SET autovacuum_naptime = '5s'")
            connection.execute("SELECT pg_reload_conf()")
        soak = Soak(Path(folder), database, given.seconds, given.seed)
        asyncio.run(soak.run())
    for name, count in sorted(soak.counts.items()):
        print(f"{count:7,} {name}")
    for told, flat in growth(soak.seen):
        print(f"{'flat ' if flat else 'GROWS'} {told}")
        if not flat:
            soak.complaints.append(f"grows: {told}")
    if given.plot:
        minutes = soak.seen.times[-1] / 60
        given.plot.write_text(plot(soak.seen, f"A worker under mixed load and faults, {minutes:.0f} minutes"))
    for complaint in soak.complaints:
        print(f"WRONG: {complaint}")
    print(f"seed {given.seed}, {soak.seen.times[-1]:,.0f} s: {'wrong' if soak.complaints else 'all is well'}")
    return 1 if soak.complaints else 0


if __name__ == "__main__":
    sys.exit(main())
