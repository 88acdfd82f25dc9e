"""Draining a queue beside reading the same IDs from a file, and beside what the queue's server can do at all.

    .venv/bin/python tests/benchmarks/draining.py [--messages 20000]

The API is a simulator without a quota, the queue a server of its own (see `sqs_server`), the database the
embedded Postgres, each a process of its own. The queue's ceiling: its messages received and deleted by as
many requests at once as a worker makes, with nothing done in between.
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import anyio
import psycopg

from syncer.demo import environment
from syncer.partner_central.client import own_session
from syncer.partner_central.population import Population
from syncer.partner_central.simulator import Faults, Simulator
from syncer.sources.inbox import POLLERS
from syncer.sqs.client import opened
from syncer.store.embedded import embedded
from syncer.store.schema import migrate
from tests.sqs_server import SqsServer

SPAWN = multiprocessing.get_context("spawn")
SEED = 1
TABLES = (
    "connection, connection_type, participant, connection_type_history, sync_run, sync_failure, request_rate"
)


def serve_api(pipe: "Connection[Any, Any]", ids: int) -> None:
    async def main() -> None:
        async with Simulator(Population(ids, SEED), Faults()).serving() as url:
            pipe.send(url)
            await anyio.to_thread.run_sync(pipe.recv)

    anyio.run(main)


def serve_queue(pipe: "Connection[Any, Any]", _: int) -> None:
    async def main() -> None:
        async with SqsServer().serving() as url:
            pipe.send(url)
            await anyio.to_thread.run_sync(pipe.recv)

    anyio.run(main)


@contextmanager
def serving(target: Any, ids: int) -> Iterator[str]:
    here, there = SPAWN.Pipe()
    process = SPAWN.Process(target=target, args=(there, ids))
    process.start()
    try:
        yield here.recv()
        here.send(None)
        process.join()
    finally:
        process.terminate()


def syncer(variables: dict[str, str], folder: str, *arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "syncer", *arguments, "--json"],
        env=os.environ | variables, cwd=folder, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def emptied(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(f"TRUNCATE {TABLES}".encode())


async def ceiling(url: str) -> float:
    """Messages per second, received and deleted."""
    done = 0
    began = time.perf_counter()

    async def one() -> None:
        nonlocal done
        while messages := await queue.receive(10, wait=0, visibility=60):
            await queue.delete([message.handle for message in messages])
            done += len(messages)

    async with opened(own_session(), url, 2 * POLLERS) as queue, anyio.create_task_group() as tasks:
        for _ in range(POLLERS):
            tasks.start_soon(one)
    return done / (time.perf_counter() - began)


def main(messages: int) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        tempfile.TemporaryDirectory() as database_folder,
        embedded(Path(database_folder)) as database,
        serving(serve_api, messages) as api,
        serving(serve_queue, messages) as url,
    ):
        anyio.run(migrate, database.url)
        (Path(folder) / "ids.txt").write_text("\n".join(Population(messages, SEED).identifiers()))
        variables = environment(api) | {"DATABASE_URL": database.url, "SYNCER_QUEUE_URL": url}
        variables["AWS_ENDPOINT_URL_SQS"] = url.removesuffix("/123456789012/connections")
        os.environ |= variables
        # Learn the rate first, for both.
        syncer(variables, folder, "sync", "ids.txt")
        emptied(database.url)
        file = syncer(variables, folder, "sync", "ids.txt")
        emptied(database.url)
        syncer(variables, folder, "enqueue", "ids.txt")
        queue = syncer(variables, folder, "work", "--drain")
        assert file["written"] == queue["written"] == messages
        syncer(variables, folder, "enqueue", "ids.txt")
        most = anyio.run(ceiling, url)
    per_file, per_queue = (messages / told["seconds"] for told in (file, queue))
    print(
        f"{messages:,} IDs: from a file {per_file:,.0f}/s, from the queue {per_queue:,.0f}/s "
        f"({per_queue / per_file:.2f} x); the queue's server alone: {most:,.0f}/s"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--messages", type=int, default=20_000)
    main(parser.parse_args().messages)
