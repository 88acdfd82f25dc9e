"""What telemetry costs: CPU of `syncer sync FILE` without it, and with traces and metrics sent somewhere.

    .venv/bin/python -m tests.benchmarks.telemetry [--ids 20000] [--rounds 5]

Both run side by side, so that whatever else the machine does meets both alike. Each run is a process of its
own, into empty tables of its own; its CPU (user and system, of all threads) is the kernel's account of it. A
run of one ID tells what the start costs; the rest is per ID.
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import anyio
import psycopg
from sqlalchemy import make_url

from syncer.demo import environment
from syncer.partner_central.population import Population
from syncer.store.embedded import embedded
from syncer.store.schema import migrate
from tests.collector import Collector

TABLES = (
    "connection, connection_type, participant, connection_type_history, sync_run, sync_failure, request_rate"
)


async def cpu(folder: Path, size: int, variables: Mapping[str, str]) -> float:
    """CPU seconds of a sync of `size` IDs."""
    with psycopg.connect(variables["DATABASE_URL"], autocommit=True) as connection:
        connection.execute(f"TRUNCATE {TABLES}".encode())
        connection.execute("CHECKPOINT")
    ids = folder / f"ids-{size}.txt"
    if not ids.exists():
        ids.write_text("".join(f"{identifier}\n" for identifier in Population(size, seed=1).identifiers()))
    process = subprocess.Popen(  # noqa: ASYNC220  (wait4 tells what it used)
        [sys.executable, "-m", "syncer", "sync", str(ids), "--json"],
        env={name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
        | dict(variables),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = await asyncio.to_thread(os.wait4, process.pid, 0)
    if status:
        raise SystemExit(f"syncer ended with {os.waitstatus_to_exitcode(status)}")
    return usage.ru_utime + usage.ru_stime


async def main(size: int, rounds: int) -> None:
    with (
        tempfile.TemporaryDirectory() as name,
        tempfile.TemporaryDirectory() as folder,
        embedded(Path(folder)) as database,
    ):
        with psycopg.connect(database.url, autocommit=True) as connection:
            connection.execute("CREATE DATABASE other")
        other = make_url(database.url).set(database="other").render_as_string(hide_password=False)
        for url in (database.url, other):
            await migrate(url)
        simulator = subprocess.Popen(  # noqa: ASYNC220  (it answers while we wait)
            [sys.executable, "-m", "syncer", "simulate", "--port", "0", "--seed", "1",
             "--connections", str(size)],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert simulator.stdout is not None
        endpoint = simulator.stdout.readline().split()[4].rstrip(",")
        off = environment(endpoint) | {"DATABASE_URL": database.url}
        collector, ratios = Collector(), []
        try:
            async with collector.receiving() as receiver:
                # Shorter than anybody's: so that the sending is in the account too.
                on = off | {
                    "DATABASE_URL": other,
                    "OTEL_EXPORTER_OTLP_ENDPOINT": receiver,
                    "OTEL_METRIC_EXPORT_INTERVAL": "10000",
                }

                async def both(count: int) -> tuple[float, float]:
                    """CPU without and with."""
                    return await asyncio.gather(cpu(Path(name), count, off), cpu(Path(name), count, on))

                starts = [await both(1) for _ in range(rounds)]
                begin_off, begin_on = (statistics.median(each) for each in zip(*starts, strict=True))
                print(f"start: {begin_off:.3f} s without, {begin_on:.3f} s with", flush=True)
                for _ in range(rounds):
                    without, with_it = await both(size)
                    ratios.append((with_it - begin_on) / (without - begin_off))
                    print(
                        f"per ID: {(without - begin_off) / size * 1e6:.0f} µs without, "
                        f"{(with_it - begin_on) / size * 1e6:.0f} µs with: {ratios[-1]:.3f} x",
                        flush=True,
                    )
        finally:
            simulator.terminate()
            simulator.wait()
        print(f"median: {statistics.median(ratios):.3f} x; {len(collector.traces)} requests with spans")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--ids", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    anyio.run(main, given.ids, given.rounds)
