"""Peak memory and cost per ID of `syncer sync FILE` as the number of IDs grows.

    .venv/bin/python tests/benchmarks/memory.py [--ids 10000 200000]

Each size is synced by a process of its own from a simulator in another, into the embedded Postgres; the
kernel's account of the finished process is what is printed.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import anyio

from syncer.demo import environment
from syncer.partner_central.population import Population
from syncer.store.embedded import embedded
from syncer.store.schema import migrate


def synced(folder: Path, size: int, variables: dict[str, str]) -> tuple[float, float, float]:
    """Sync `size` IDs: peak memory in MiB, CPU seconds, wall seconds."""
    ids = folder / f"ids-{size}.txt"
    with ids.open("w") as lines:
        lines.writelines(f"{identifier}\n" for identifier in Population(size, seed=1).identifiers())
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "syncer", "sync", str(ids), "--json"],
        env=os.environ | variables,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"syncer ended with {os.waitstatus_to_exitcode(status)}")
    return usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime, time.monotonic() - began


def main(sizes: list[int]) -> None:
    with (
        tempfile.TemporaryDirectory() as name,
        tempfile.TemporaryDirectory() as folder,
        embedded(Path(folder)) as database,
    ):
        anyio.run(migrate, database.url)
        simulator = subprocess.Popen(
            [sys.executable, "-m", "syncer", "simulate", "--port", "0", "--seed", "1",
             "--connections", str(max(sizes))],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert simulator.stdout is not None
        endpoint = simulator.stdout.readline().split()[4].rstrip(",")
        variables = environment(endpoint) | {"DATABASE_URL": database.url}
        least = None
        try:
            for size in sizes:
                peak, cpu, wall = synced(Path(name), size, variables)
                least = least or peak
                print(
                    f"{size:9,} IDs: {peak:6.1f} MiB ({peak / least:.2f} x), "
                    f"{cpu / size * 1e6:4.0f} µs CPU per ID, {size / wall:5,.0f} IDs/s",
                    flush=True,
                )
        finally:
            simulator.terminate()
            simulator.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--ids", type=int, nargs="+", default=[10_000, 200_000])
    main(parser.parse_args().ids)
