"""Runs a pipe of programs, and tells what the kernel says that they took: a small process of its own.

    python -IS measured.py \\
        '{"commands": [["one", "-x"], ["two"]], "stderr": "FILE", "after": null, "signal": 9}'

Apart from the benchmarks' own process, since a child begins with its parent's memory in its account, and
what all children took together cannot be told apart from what these did. after: seconds until `signal` is
sent to the programs that are still running; null: never.
"""

import json
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress


def measured(commands: list[list[str]], stderr: str, after: float | None, signal: int) -> dict[str, object]:
    """seconds; cpu: s, user and system, with descendants; peak: bytes, all programs of the pipe together.

    exits: of each program, as a shell has it: 128 and the signal's number for one that a signal ended.
    """
    running: dict[int, int] = {}
    started: list[subprocess.Popen[bytes]] = []  # one that nobody refers to would be waited for by itself
    exits = [0] * len(commands)
    cpu, peak = 0.0, 0
    began = time.monotonic()
    with open(stderr, "ab") as errors:  # noqa: PTH123  (as little as possible is imported here)
        source = subprocess.DEVNULL
        for number, command in enumerate(commands):
            into: tuple[int, int] | None = None if number == len(commands) - 1 else os.pipe()
            process = subprocess.Popen(
                command, stdin=source, stdout=errors if into is None else into[1], stderr=errors
            )
            started.append(process)
            running[process.pid] = number
            if source >= 0:
                os.close(source)
            if into is not None:
                source = into[0]
                os.close(into[1])
    timer = threading.Timer(after or 0.0, _signal, (running, signal))
    if after is not None:
        timer.start()
    while running:
        pid, status, used = os.wait4(-1, 0)
        exits[running.pop(pid)] = os.waitstatus_to_exitcode(status)
        cpu += used.ru_utime + used.ru_stime
        peak += used.ru_maxrss * 1024
    timer.cancel()
    seconds = time.monotonic() - began
    return {
        "began": began,
        "seconds": seconds,
        "cpu": cpu,
        "peak": peak,
        "exits": [128 - exit_ if exit_ < 0 else exit_ for exit_ in exits],
    }


def _signal(running: dict[int, int], signal: int) -> None:
    for pid in list(running):
        with suppress(ProcessLookupError):
            os.kill(pid, signal)


if __name__ == "__main__":
    print(json.dumps(measured(**json.loads(sys.argv[1]))))
