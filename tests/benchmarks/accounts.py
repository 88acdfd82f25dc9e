"""Many accounts side by side: how many times as fast as one, where each has a quota of its own.

    .venv/bin/python tests/benchmarks/accounts.py [--accounts 10] [--connections 400] [--rate 10]

`syncer sync --assume-role …` into an empty database of the embedded Postgres, from a simulator that keeps a
quota per access key; the roles are assumed from moto's STS. Simulator and STS are in a process of their own.
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import psycopg
from moto.server import ThreadedMotoServer

from syncer.demo import environment
from syncer.partner_central.population import Population
from syncer.partner_central.simulator import Faults, Simulator
from syncer.store.embedded import embedded
from syncer.store.schema import migrate

SPAWN = multiprocessing.get_context("spawn")
TABLES = (
    "connection, connection_type, participant, connection_type_history, sync_run, sync_failure, request_rate"
)


def serve(pipe: "Connection[Any, Any]", connections: int, rate: float) -> None:
    async def main() -> None:
        sts = ThreadedMotoServer(port=0, verbose=False)
        sts.start()
        host, port = sts.get_host_and_port()
        faults = Faults(rate=rate, burst=rate, latency=0.05, jitter=0.02)
        async with Simulator(Population(connections, 1), faults, quota_per_access_key=True).serving() as url:
            pipe.send((url, f"http://{host}:{port}"))
            await anyio.to_thread.run_sync(pipe.recv)
        sts.stop()

    anyio.run(main)


def measure(database_url: str, accounts: int, connections: int, rate: float) -> float:
    """Connections per second of all accounts together."""
    with psycopg.connect(database_url) as connection:
        connection.execute(f"TRUNCATE {TABLES}".encode())
    here, there = SPAWN.Pipe()
    server = SPAWN.Process(target=serve, args=(there, connections, rate))
    server.start()
    url, sts = here.recv()
    variables = environment(url) | {"AWS_ENDPOINT_URL_STS": sts, "DATABASE_URL": database_url}
    del variables["SYNCER_ACCOUNT_ID"]
    roles = [f"--assume-role=arn:aws:iam::{number:012d}:role/syncer" for number in range(accounts)]
    done = subprocess.run(
        [sys.executable, "-m", "syncer", "sync", "--json", *roles],
        env=os.environ | variables, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True,
    )  # fmt: skip
    here.send(None)
    server.join()
    told = json.loads(done.stdout)
    speed: float = told["written"] / told["seconds"]
    print(
        f"{accounts:3} accounts: {told['written']:,} written in {told['seconds']:.1f} s, {speed:.2f}/s; "
        f"{told['throttled'] / told['api_calls']:.1%} of the calls throttled, {told['failed']} failed",
        flush=True,
    )
    return speed


def main(accounts: int, connections: int, rate: float) -> None:
    with tempfile.TemporaryDirectory() as folder, embedded(Path(folder)) as database:
        anyio.run(migrate, database.url)
        alone = measure(database.url, 1, connections, rate)
        together = measure(database.url, accounts, connections, rate)
        print(f"{accounts} accounts are {together / alone:.2f} times as fast as one")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--accounts", type=int, default=10)
    parser.add_argument("--connections", type=int, default=400)
    parser.add_argument("--rate", type=float, default=10.0, help="calls/s of each account's quota")
    given = parser.parse_args()
    main(given.accounts, given.connections, given.rate)
