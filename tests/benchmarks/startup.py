"""From the start of the program to its first call: `syncer sync FILE` beside a bare aioboto3 client.

    .venv/bin/python tests/benchmarks/startup.py [--rounds 20]

Both are started in turns, on the same interpreter, and call the same server, which tells when the call came.
syncer has opened its database by then, with a run of its own in it, and found nobody else's going on. The
ratio is that of the medians.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import anyio

from syncer.demo import environment
from syncer.partner_central.client import MODEL
from syncer.store.embedded import embedded
from syncer.store.schema import migrate
from tests.benchmarks import lean_server

BARE = Path(__file__).parent / "peers" / "bare.py"


def until_first_call(command: Sequence[str], server: lean_server.Lean) -> float:
    """Seconds from the start of `command` until its first call arrives."""
    server.calls()
    began = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    calls, first = server.calls()
    if not calls:
        raise SystemExit(f"{command[1]} made no call")
    return first - began


def main(rounds: int) -> None:
    with (
        tempfile.TemporaryDirectory() as name,
        tempfile.TemporaryDirectory() as folder,
        embedded(Path(folder)) as database,
        lean_server.serving() as server,
    ):
        anyio.run(migrate, database.url)
        os.environ |= environment(server.url) | {"AWS_DATA_PATH": str(MODEL), "DATABASE_URL": database.url}
        [identifier] = lean_server.ids(1)
        ids = Path(name) / "ids.txt"
        ids.write_text(identifier)
        commands = {
            "syncer": [sys.executable, "-m", "syncer", "sync", str(ids)],
            "aioboto3": [sys.executable, str(BARE), identifier],
        }
        seconds: dict[str, list[float]] = {contender: [] for contender in commands}
        for number in range(rounds + 1):
            for contender in sorted(commands, reverse=bool(number % 2)):
                took = until_first_call(commands[contender], server)
                if number:  # the first round fills the caches of compiled modules
                    seconds[contender].append(took)
    medians = {contender: statistics.median(each) for contender, each in seconds.items()}
    for contender, each in seconds.items():
        print(f"{contender:8} {medians[contender]:.3f} s ({min(each):.3f} to {max(each):.3f})")
    print(f"{medians['syncer'] / medians['aioboto3']:.2f} x, {rounds} rounds")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    main(parser.parse_args().rounds)
