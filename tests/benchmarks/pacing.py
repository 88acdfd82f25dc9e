"""How close to a request quota that nobody knows: syncer beside what people use instead.

    .venv/bin/python tests/benchmarks/pacing.py [--row 10 50 500 four falling none] [--quick] [--plot SVG]

Each client has a simulated API to itself: a token bucket, in a process of its own, 50 to 70 ms per answer.
Everything is measured there, the same for all, from the first call's arrival to that of the last one served.
The ideal is (IDs - burst) / rate. syncer runs as the program, into an empty database of the embedded
Postgres (cold), and once more with what that run has learned (warm). The others run side by side with the
cold run, each with 32 calls in flight and the retries its SDK comes with.
"""

import argparse
import asyncio
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from itertools import count, islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import boto3
import psycopg
from aiobotocore.config import AioConfig
from botocore.config import Config
from botocore.exceptions import ClientError
from sqlalchemy import make_url
from tenacity import AsyncRetrying, retry_if_exception, wait_random_exponential

from syncer.demo import environment
from syncer.fetch import Fetcher
from syncer.identifiers import Item
from syncer.ledger import Calls
from syncer.partner_central.client import MODEL, SERVICE, opened, own_session
from syncer.partner_central.errors import PartnerCentralError
from syncer.partner_central.pacing import Pacer
from syncer.partner_central.population import OWN_ACCOUNT, Population
from syncer.partner_central.retry import Retrying
from syncer.partner_central.simulator import GET, Faults, Simulator
from syncer.partner_central.turns import Turns
from syncer.sharing import shared
from syncer.store import runs
from syncer.store.embedded import embedded
from syncer.store.pool import Pool
from syncer.store.rates import Rates
from syncer.store.schema import migrate
from syncer.store.writer import Scope
from tests.benchmarks import chart

SEED, CATALOG, REGION = 1, "AWS", "us-east-1"
LATENCY, JITTER = 0.05, 0.02
SLOTS = 32
# Children start from nothing, as separate programs do.
SPAWN = multiprocessing.get_context("spawn")
T = TypeVar("T")
UVLOOP = {"use_uvloop": sys.platform != "win32"}


# --- The server


@dataclass(frozen=True, slots=True)
class Seen:
    """What a server saw: (seconds since the first call, whether it was served) of each call, in order."""

    calls: list[tuple[float, bool]]
    fell: float

    @property
    def seconds(self) -> float:
        return max(at for at, served in self.calls if served)

    def throttled(self, start: float = 0.0) -> int:
        """Calls throttled from `start` on."""
        return sum(not served for at, served in self.calls if at >= start)

    def served(self, start: float = 0.0) -> int:
        return sum(served for at, served in self.calls if at >= start)


@dataclass(slots=True)
class Server:
    """A simulator in a process of its own; `seen` once it has ended."""

    url: str
    seen: Seen = field(default_factory=lambda: Seen([], 0.0))


@contextmanager
def serving(faults: Faults, ids: int, falls_to: float | None = None) -> Iterator[Server]:
    """A simulator of `ids` connections. falls_to: calls/s that are left once half of them are served."""
    here, there = SPAWN.Pipe()
    process = SPAWN.Process(target=_serve, args=(there, faults, ids, falls_to))
    process.start()
    try:
        server = Server(here.recv())
        yield server
        here.send(None)
        calls, fell = here.recv()
        start = min((at for at, _ in calls), default=0.0)
        server.seen = Seen([(at - start, served) for at, served in calls], fell - start)
        process.join()
    finally:
        process.terminate()


def _serve(pipe: "Connection[Any, Any]", faults: Faults, ids: int, falls_to: float | None) -> None:
    async def main() -> None:
        fell, served = 0.0, count(1)

        def fall(_operation: str, _request: object) -> None:
            nonlocal fell
            if next(served) == ids // 2:
                simulator.faults, fell = replace(faults, rate=falls_to), time.monotonic()

        simulator = Simulator(
            Population(ids, SEED),
            faults,
            keep_timeline=faults.rate is not None,
            answer=None if falls_to is None else fall,
        )
        async with simulator.serving() as url:
            pipe.send(url)
            await anyio.to_thread.run_sync(pipe.recv)
        pipe.send((simulator.timeline, fell))

    anyio.run(main, backend_options=UVLOOP)


# --- The clients: each gets the server's URL and a number of IDs, and tells how many IDs it has given up

Client = Callable[[str, int], int]


def in_threads(mode: str, url: str, ids: int) -> int:
    """boto3 in threads that share one client, as its manual has it."""
    os.environ |= environment(url)
    session = boto3.Session()
    session._session.get_component("data_loader").search_paths.append(str(MODEL))  # noqa: SLF001  (the only way)
    config = Config(retries={"mode": mode}, max_pool_connections=SLOTS)  # type: ignore[typeddict-item,unused-ignore]  # boto3's own three modes
    sdk = session.client(SERVICE, region_name=REGION, config=config)

    def given_up(identifier: str) -> bool:
        try:
            sdk.get_connection(Catalog=CATALOG, Identifier=identifier)
        except ClientError:
            return True
        return False

    with ThreadPoolExecutor(SLOTS) as threads:
        return sum(threads.map(given_up, Population(ids, SEED).identifiers()))


def in_tasks(retries: dict[str, Any], url: str, ids: int) -> int:
    """aioboto3; its own retries, or with only one attempt tenacity's."""
    os.environ |= environment(url)
    once = "total_max_attempts" in retries
    again = AsyncRetrying(
        retry=retry_if_exception(_is_throttled),
        wait=wait_random_exponential(multiplier=1, max=60),
        reraise=True,
    )
    given_up = 0

    async def main() -> None:
        session = own_session()
        config = AioConfig(retries=retries, max_pool_connections=SLOTS)
        async with session.client(SERVICE, region_name=REGION, config=config) as sdk:

            async def one(identifier: str) -> None:
                nonlocal given_up

                async def call() -> None:
                    await sdk.get_connection(Catalog=CATALOG, Identifier=identifier)

                try:
                    await (again(call) if once else call())
                except ClientError:
                    given_up += 1

            await each(Population(ids, SEED).identifiers(), one, SLOTS)

    asyncio.run(main())
    return given_up


def _is_throttled(error: BaseException) -> bool:
    return isinstance(error, ClientError) and error.response["Error"]["Code"] == "ThrottlingException"


async def each(those: Iterable[T], do: Callable[[T], Awaitable[object]], slots: int) -> None:
    """Do it for each of `those`, `slots` at a time."""
    left = iter(those)

    async def slot() -> None:
        for one in left:
            await do(one)

    async with anyio.create_task_group() as tasks:
        for _ in range(slots):
            tasks.start_soon(slot)


def program(slots: int, database_url: str, url: str, ids: int) -> int:
    """syncer, as users run it."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "ids.txt").write_text("\n".join(Population(ids, SEED).identifiers()))
        finished = subprocess.run(
            [sys.executable, "-m", "syncer", "sync", "ids.txt", "--json", "--concurrency", str(slots)],
            env=os.environ | environment(url) | {"DATABASE_URL": database_url},
            cwd=folder, capture_output=True, text=True, check=False,
        )  # fmt: skip
    if finished.returncode:
        raise SystemExit(f"syncer ended with {finished.returncode}: {finished.stderr[-2000:]}")
    return 0


OTHERS: dict[str, Client] = {
    "boto3 legacy": partial(in_threads, "legacy"),
    "boto3 standard": partial(in_threads, "standard"),
    "boto3 adaptive": partial(in_threads, "adaptive"),
    "aioboto3 adaptive": partial(in_tasks, {"mode": "adaptive"}),
    "tenacity": partial(in_tasks, {"total_max_attempts": 1}),
}


def in_child(function: Callable[..., T], *arguments: object) -> T:
    with ProcessPoolExecutor(1, SPAWN) as child:
        return child.submit(function, *arguments).result()


# --- The parts of syncer by themselves: four processes on one quota, and no quota at all


def _ignored(_error: PartnerCentralError) -> None:
    pass


def worker(database_url: str, url: str, ids: int, *, taken: Any, begin: Any, told: Any) -> None:
    """One of several processes that take IDs from a common pool; tells how many it has fetched.

    Two runs of the program may not be on at once for one account, so this puts its parts together.
    taken: a shared number, how many IDs have been taken. begin: where the workers wait for each other.
    """
    os.environ |= environment(url)
    identifiers = list(Population(ids, SEED).identifiers())
    fetched = 0

    def pool() -> Iterator[str]:
        while True:
            with taken.get_lock():
                number = taken.value
                taken.value += 1
            if number >= ids:
                return
            yield identifiers[number]

    async def main() -> None:
        connections = Pool(database_url)
        clock = await runs.ready(connections)
        rates = Rates(connections, Scope(runs.new_id(clock.now()), OWN_ACCOUNT, CATALOG))
        pacer = Pacer()
        turns, retrying = Turns(pacer, anyio.sleep), Retrying(6, anyio.sleep, _ignored)
        async with opened(own_session(), catalog=CATALOG, connections=SLOTS) as api:

            async def one(identifier: str) -> None:
                nonlocal fetched
                await retrying(lambda: turns(partial(api.get_connection, identifier)))
                fetched += 1

            await anyio.to_thread.run_sync(begin.wait)
            async with shared(rates, {GET: pacer}):
                await each(pool(), one, SLOTS)
        await connections.close()

    anyio.run(main, backend_options=UVLOOP)
    told.put(fetched)


def together(processes: int, database_url: str, url: str, ids: int) -> list[int]:
    """What each of the processes has fetched."""
    told = SPAWN.SimpleQueue()
    common = {"taken": SPAWN.Value("i", 0), "begin": SPAWN.Barrier(processes), "told": told}
    workers = [
        SPAWN.Process(target=worker, args=(database_url, url, ids), kwargs=common) for _ in range(processes)
    ]
    for process in workers:
        process.start()
    fetched = [told.get() for _ in workers]
    for process in workers:
        process.join()
    return fetched


class Unpaced(Pacer):
    """Lets every call go at once, and learns nothing."""

    def turn(self, now: float) -> float:  # noqa: ARG002
        return 0.0

    def served(self, now: float, asked: float) -> None:
        pass


def unlimited(rounds: int, slots: int, url: str, ids: int) -> list[tuple[float, float]]:
    """Calls/s with the pacer and without it, per round: the same work in one process, in turns."""
    os.environ |= environment(url)
    identifiers = list(Population(ids, SEED).identifiers())

    async def rate(pacer: Pacer) -> float:
        async with opened(own_session(), catalog=CATALOG, connections=slots) as api:
            fetcher = Fetcher(
                api,
                turns=Turns(pacer, anyio.sleep),
                retrying=Retrying(6, anyio.sleep, _ignored),
                now=partial(datetime.now, UTC),
                calls=Calls(),
            )
            began = time.perf_counter()
            await each((Item(i, identifier) for i, identifier in enumerate(identifiers)), fetcher, slots)
            return ids / (time.perf_counter() - began)

    async def main() -> list[tuple[float, float]]:
        await rate(Unpaced())  # warms up the server
        pairs = []
        for number in range(rounds):
            # Who goes first changes: a machine's speed drifts.
            if number % 2:
                without = await rate(Unpaced())
                pairs.append((await rate(Pacer()), without))
            else:
                paced = await rate(Pacer())
                pairs.append((paced, await rate(Unpaced())))
        return pairs

    return anyio.run(main, backend_options=UVLOOP)


# --- The rows


@dataclass(frozen=True, slots=True)
class Measured:
    """One line of the table. ideal: seconds."""

    row: str
    client: str
    ids: int
    ideal: float
    seen: Seen
    given_up: int
    remark: str = ""

    def cells(self) -> tuple[str, ...]:
        wall = f"{self.seen.seconds / self.ideal:.3f}"
        throttled = f"{self.seen.throttled() / self.ids:.1%}"
        return self.row, f"{self.ids:,}", self.client, wall, throttled, f"{self.given_up:,}", self.remark


HEAD = ("server", "IDs", "client", "wall / ideal", "throttled per ID", "IDs given up", "")


class Databases:
    """Empty, migrated databases on one server."""

    def __init__(self, server_url: str) -> None:
        self._server_url = server_url
        self._names = (f"pacing_{number}" for number in count())
        self._template = next(self._names)
        anyio.run(migrate, self._create(self._template))

    def empty(self) -> str:
        return self._create(next(self._names), self._template)

    def _create(self, name: str, template: str = "template1") -> str:
        with psycopg.connect(self._server_url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}".encode())
        return make_url(self._server_url).set(database=name).render_as_string(hide_password=False)


def quota(rate: float, burst: float) -> Faults:
    return Faults(rate=rate, burst=burst, latency=LATENCY, jitter=JITTER)


def measured(row: str, name: str, client: Client, faults: Faults, ids: int) -> Measured:
    with serving(faults, ids) as server:
        given_up = in_child(client, server.url, ids)
    missing = ids - server.seen.served()
    if missing != given_up:
        raise SystemExit(f"{name}: {given_up} IDs given up, but {missing} not served")
    assert faults.rate is not None
    assert faults.burst is not None
    return Measured(row, name, ids, (ids - faults.burst) / faults.rate, server.seen, given_up)


def at_quota(
    databases: Databases, rate: float, ids: int, slots: int = SLOTS, others: Sequence[str] = ()
) -> list[Measured]:
    """syncer cold, beside it the others, then syncer warm."""
    row, faults = f"{rate:g}/s, burst {rate:g}", quota(rate, rate)
    url = databases.empty()
    syncer = partial(program, slots, url)
    with ThreadPoolExecutor(len(others) + 1) as threads:
        cold = threads.submit(measured, row, "syncer, cold", syncer, faults, ids)
        beside = [threads.submit(measured, row, name, OTHERS[name], faults, ids) for name in others]
        cold.result()
        warm = measured(row, "syncer, warm", syncer, faults, ids)
    return [each.result() for each in beside] + [cold.result(), warm]


def four(databases: Databases, rate: float, ids: int) -> list[Measured]:
    with serving(quota(rate, rate), ids) as server:
        fetched = together(4, databases.empty(), server.url, ids)
    share = f"least/most share {min(fetched) / max(fetched):.2f}"
    row, ideal = f"{rate:g}/s, four processes", (ids - rate) / rate
    return [Measured(row, "syncer, cold", ids, ideal, server.seen, ids - sum(fetched), share)]


def falling(databases: Databases, rate: float, falls_to: float, ids: int) -> list[Measured]:
    with serving(quota(rate, rate), ids, falls_to) as server:
        in_child(program, SLOTS, databases.empty(), server.url, ids)
    seen = server.seen
    soon = seen.fell + 30
    later = seen.throttled(soon) / max(seen.throttled(soon) + seen.served(soon), 1)
    remark = (
        f"calls throttled: {seen.throttled(seen.fell) - seen.throttled(soon)} in the 30 s after the fall, "
        f"{later:.1%} from then on"
    )
    row, ideal = f"{rate:g}/s falling to {falls_to:g}/s", (ids / 2 - rate) / rate + ids / 2 / falls_to
    return [Measured(row, "syncer, cold", ids, ideal, seen, ids - seen.served(), remark)]


def without_quota(ids: int, rounds: int, latency: float, jitter: float, slots: int) -> str:
    """What the pacer costs, way up included: the ratio within each round, and the middle one of them."""
    with serving(Faults(latency=latency, jitter=jitter), ids) as server:
        pairs = in_child(unlimited, rounds, slots, server.url, ids)
    paced, free = (statistics.median(rates) for rates in zip(*pairs, strict=True))
    ratios = sorted(with_it / without for with_it, without in pairs)
    return (
        f"no quota, {latency * 1000:g} to {(latency + jitter) * 1000:g} ms, {slots} slots, {ids:,} IDs, "
        f"{rounds} rounds: {paced:,.0f} calls/s with the pacer, {free:,.0f} without it; "
        f"ratio {statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})"
    )


# --- The output


def table(lines: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (HEAD, ["---"] * len(HEAD), *lines))


COLOURS = {
    "syncer, cold": chart.BLUE,
    "syncer, warm": chart.GREEN,
    "boto3 legacy": chart.BROWN,
    "boto3 standard": chart.RED,
    "boto3 adaptive": chart.VIOLET,
    "aioboto3 adaptive": chart.PINK,
    "tenacity": chart.YELLOW,
}
POINTS = 160


def plot(lines: Sequence[Measured], rate: float) -> str:
    """Calls served over time as an SVG: a line per client, the ideal dashed."""
    ids, ideal = lines[0].ids, lines[0].ideal
    longest = max(line.seen.seconds for line in lines)
    step = next(step for step in (1, 2, 5, 10, 20, 30, 60, 120, 300, 600) if longest / step <= 9)
    drawn = chart.Chart(f"Calls served, quota {rate:g}/s, burst {rate:g}, {ids:,} IDs", longest, ids)
    for number in range(int(longest / step) + 1):
        drawn.vertical(number * step, f"{number * step} s")
    for number in range(0, ids + 1, max(ids // 6, 1)):
        drawn.horizontal(number, f"{number:,}")
    names = []
    for line in lines:
        times = [at for at, served in line.seen.calls if served]
        every = max(len(times) // POINTS, 1)
        points = [*islice(enumerate(times, 1), 0, None, every), (len(times), times[-1])]
        colour = COLOURS[line.client]
        style = chart.solid(colour, 2.6 if line.client.startswith("syncer") else 1.6)
        drawn.line(((at, n) for n, at in points), style)
        drawn.dot(times[-1], len(times), colour)
        given_up = f", {line.given_up:,} given up" if line.given_up else ""
        names.append((style, line.client, f"{line.seen.seconds:.0f} s{given_up}"))
    drawn.line([(0, rate), (ideal, ids)], chart.DASHED)
    drawn.legend([*names, (chart.DASHED, "ideal", f"{ideal:.0f} s")])
    return drawn.svg()


ROWS = ("10", "50", "500", "four", "falling", "none")


def main(rows: Sequence[str], *, quick: bool, svg: Path | None) -> None:
    share = 10 if quick else 1
    done: list[Measured] = []
    with tempfile.TemporaryDirectory() as folder, embedded(Path(folder)) as database:
        databases = Databases(database.url)
        work: dict[str, Callable[[], list[Measured]]] = {
            "10": lambda: at_quota(databases, 10, 1000 // share, others=list(OTHERS)),
            "50": lambda: at_quota(databases, 50, 3000 // share, others=list(OTHERS)),
            "500": lambda: at_quota(databases, 500, 15_000 // share, slots=64),
            "four": lambda: four(databases, 50, 3000 // share),
            "falling": lambda: falling(databases, 10, 3, 600 // share),
        }
        for row in (row for row in work if row in rows):
            began, cpu_before = time.monotonic(), _cpu()
            lines = work[row]()
            busy = (_cpu() - cpu_before) / (time.monotonic() - began) / (os.cpu_count() or 1)
            print(f"row {row}: its processes kept the CPUs {busy:.0%} busy", file=sys.stderr, flush=True)
            done += lines
            print(table(line.cells() for line in lines), flush=True)
            if svg and row == "50":
                svg.write_text(plot(lines, 50))
        if len(rows) > 1:
            print("\n" + table(line.cells() for line in done))
        if "none" in rows:
            print("\n" + without_quota(50_000 // share, 3, LATENCY, JITTER, 128), flush=True)
            # All calls in step with each other are cheaper for both sides than calls that are spread out; in
            # a network that step is soon lost, here it is not, and only paced calls are spread.
            print("\n" + without_quota(50_000 // share, 1, 0.0, 0.0, SLOTS), flush=True)


def _cpu() -> float:
    """CPU seconds of the child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--row", nargs="+", choices=ROWS, default=ROWS)
    parser.add_argument("--quick", action="store_true", help="a tenth of the IDs")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="of the 50/s row")
    given = parser.parse_args()
    main(given.row, quick=given.quick, svg=given.plot)
