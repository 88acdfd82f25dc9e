"""What an ID costs as their number grows, and whether writing ever is the bottleneck.

    .venv/bin/python tests/benchmarks/scaling.py [--ids 1000 10000 100000 1000000] [--plot FILE.svg]

Each size is synced by a process of its own from the lean server (see `lean_server`) into a database of its
own. What the start costs is there at any size: it is what a run over a single ID takes, and told apart. Then
the writer alone: 20,000 more connections into the tables that hold all of these, for connections/s.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from math import log10
from pathlib import Path

import anyio
import psycopg
from sqlalchemy import make_url

from syncer.demo import environment
from syncer.store.embedded import embedded
from syncer.store.pool import Pool
from syncer.store.schema import migrate
from tests.benchmarks import chart, lean_server, write_path

MEASURED = Path(__file__).parent / "measured.py"
WRITTEN = 20_000


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one run. cpu: seconds; peak: bytes; writer: connections/s that it writes by itself."""

    ids: int
    seconds: float
    cpu: float
    peak: int
    writer: float = 0.0


def synced(folder: Path, size: int, url: str, api: str) -> Cost:
    ids, log = folder / "ids.txt", folder / "log"
    with ids.open("w") as lines:
        lines.writelines(f"{identifier}\n" for identifier in lean_server.ids(size))
    command = [sys.executable, "-m", "syncer", "sync", str(ids), "--json", "--database-url", url]
    task = {"commands": [command], "stderr": str(log), "after": None, "signal": 9}
    done = subprocess.run(
        [sys.executable, "-IS", str(MEASURED), json.dumps(task)],
        env=os.environ | environment(api), check=True, stdout=subprocess.PIPE,
    )  # fmt: skip
    told = json.loads(done.stdout)
    if any(told["exits"]):
        raise SystemExit(f"syncer ended with {told['exits']}:\n{log.read_text()[-3000:]}")
    return Cost(size, told["seconds"], told["cpu"], told["peak"])


async def writer_alone(url: str) -> float:
    async with Pool(url) as pool:
        return WRITTEN / await write_path.ours(pool, write_path.batches(WRITTEN))


def plot(costs: Sequence[Cost], start: Cost) -> str:
    """Microseconds of CPU per ID over the number of IDs, which is drawn by its logarithm."""
    least = log10(costs[0].ids)
    alike = [(log10(cost.ids) - least, (cost.cpu - start.cpu) / cost.ids * 1e6) for cost in costs]
    all_of_it = [(log10(cost.ids) - least, cost.cpu / cost.ids * 1e6) for cost in costs]
    most = max(y for _, y in all_of_it)
    step = next(step for step in (50, 100, 200, 500, 1000, 2000) if most / step <= 8)
    drawn = chart.Chart("CPU per ID (µs), by the number of IDs", alike[-1][0], most * 1.05)
    for (x, _), cost in zip(alike, costs, strict=True):
        drawn.vertical(x, f"{cost.ids:,}")
    for value in range(0, int(most * 1.05) + 1, step):
        drawn.horizontal(value, f"{value:,}")
    kinds = (
        (all_of_it, chart.BLUE, "the whole program"),
        (alike, chart.GREEN, "without its start"),
    )
    names = []
    for points, colour, name in kinds:
        style = chart.solid(colour, 2.6)
        drawn.line(points, style)
        for x, y in points:
            drawn.dot(x, y, colour)
        names.append((style, name, f"{points[0][1]:,.0f} to {points[-1][1]:,.0f} µs"))
    drawn.legend(names)
    return drawn.svg()


HEAD = ("IDs", "IDs/s", "CPU per ID", "without the start", "peak memory", "writer alone", "of it in use")


def row(cost: Cost, start: Cost) -> Sequence[str]:
    rate = cost.ids / cost.seconds
    return (
        f"{cost.ids:,}",
        f"{rate:,.0f}",
        f"{cost.cpu / cost.ids * 1e6:,.0f} µs",
        f"{(cost.cpu - start.cpu) / cost.ids * 1e6:,.0f} µs",
        f"{cost.peak / 2**20:.0f} MiB",
        f"{cost.writer:,.0f}/s",
        f"{rate / cost.writer:.0%}",
    )


def main(sizes: Sequence[int], svg: Path | None) -> None:
    with (
        tempfile.TemporaryDirectory() as name,
        tempfile.TemporaryDirectory() as folder,
        embedded(Path(folder)) as database,
        lean_server.serving() as server,
    ):

        def empty(number: int) -> str:
            with psycopg.connect(database.url, autocommit=True) as connection:
                connection.execute(f"CREATE DATABASE scaling_{number}".encode())
            url = make_url(database.url).set(database=f"scaling_{number}")
            made = url.render_as_string(hide_password=False)
            anyio.run(migrate, made)
            return made

        start = synced(Path(name), 1, empty(0), server.url)
        costs = []
        print(f"| {' | '.join(HEAD)} |\n| {' | '.join(['---'] * len(HEAD))} |")
        for number, size in enumerate(sorted(sizes), 1):
            url = empty(number)
            cost = synced(Path(name), size, url, server.url)
            writer = anyio.run(writer_alone, url)
            costs.append(Cost(cost.ids, cost.seconds, cost.cpu, cost.peak, writer))
            print(f"| {' | '.join(row(costs[-1], start))} |", flush=True)
    print(f"\nThe start: {start.cpu:.2f} s of CPU, {start.seconds:.2f} s by the clock.")
    if svg:
        svg.write_text(plot(costs, start))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--ids", type=int, nargs="+", default=[1_000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--plot", type=Path, metavar="FILE.svg")
    given = parser.parse_args()
    main(given.ids, given.plot)
