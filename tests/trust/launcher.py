"""The program as processes, many a second: a parent that has imported everything forks one per run.

A fork is a process like any other: its memory, sockets and locks are its own, and `kill -9` ends it in the
midst of whatever it does. It only spares the second of imports that a start from nothing costs, so that a
machine manages ten times as many crashes.

This file is both sides: run as a script it is the parent, which takes orders on stdin and reports on stdout,
one JSON object per line; `Launcher` is the test's side.
"""

import asyncio
import contextlib
import json
import os
import selectors
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).parent.parent.parent


@dataclass(slots=True, eq=False)
class Running:
    """A run of the program. exit: what `Popen.returncode` would say, once `ended` is set."""

    number: int
    stdout: Path
    stderr: Path
    exit: int | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class Launcher:
    """Starts the program, and kills it. `log`: a folder for what the runs print."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self._log = log
        self._running: dict[int, Running] = {}
        self._started = 0

    def start(self, arguments: Sequence[str], environment: Mapping[str, str], folder: Path) -> Running:
        self._started += 1
        run = Running(self._started, self._log / f"{self._started}.out", self._log / f"{self._started}.err")
        self._running[run.number] = run
        # Who is killed before it has begun has printed nothing.
        run.stdout.touch()
        run.stderr.touch()
        self._order(
            start=run.number, arguments=[*arguments], environment=dict(environment), folder=str(folder),
            stdout=str(run.stdout), stderr=str(run.stderr),
        )  # fmt: skip
        return run

    async def kill(self, run: Running) -> None:
        """`kill -9`; returns when the process is no more."""
        # The parent kills: only it knows that the process ID is still that of its child.
        self._order(kill=run.number)
        await run.ended.wait()

    def _order(self, **order: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")

    async def listen(self) -> None:
        """Hear of what has ended; until the parent ends."""
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            told = json.loads(line)
            run = self._running.pop(told["ended"])
            run.exit = told["exit"]
            run.ended.set()


@asynccontextmanager
async def launching(log: Path) -> AsyncIterator[Launcher]:
    """A launcher for as long as the context lasts; whatever still runs then is killed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.trust.launcher", cwd=CHECKOUT,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    launcher = Launcher(process, log)
    listening = asyncio.create_task(launcher.listen())
    try:
        yield launcher
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()
        await listening


def _child(order: Mapping[str, Any]) -> None:
    """What is the forked process's: it never returns."""
    for number, path in ((0, os.devnull), (1, order["stdout"]), (2, order["stderr"])):
        flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        os.dup2(os.open(path, flags, 0o600), number)
    # The orders to the parent, and its reports, are no business of the child's.
    os.closerange(3, 1024)
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["environment"])
    from syncer.cli import main  # noqa: PLC0415  (imported by the parent)

    exit_code = 70
    try:
        main(order["arguments"])
    except SystemExit as ending:
        exit_code = ending.code if isinstance(ending.code, int) else 0 if ending.code is None else 1
    finally:
        with contextlib.suppress(ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(exit_code)


def _parent() -> None:
    """Carry out orders until stdin ends; single-threaded, so that a fork is sound."""
    import aiobotocore.client  # noqa: F401, PLC0415
    import alembic.command  # noqa: F401, PLC0415
    import psycopg  # noqa: F401, PLC0415
    import rich.console  # noqa: F401, PLC0415
    import sqlalchemy.dialects.postgresql.psycopg  # noqa: F401, PLC0415  (migrations)
    import uvloop  # noqa: F401, PLC0415

    import syncer.cli  # noqa: PLC0415
    import syncer.run  # noqa: PLC0415
    import syncer.work  # noqa: F401, PLC0415

    children: dict[int, int] = {}  # process ID by number
    wake_reading, wake_writing = os.pipe()
    os.set_blocking(wake_writing, False)
    os.set_blocking(wake_reading, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_writing)
    ready = selectors.DefaultSelector()
    ready.register(0, selectors.EVENT_READ)
    ready.register(wake_reading, selectors.EVENT_READ)
    held = b""
    open_still = True
    while open_still:
        for key, _ in ready.select():
            if key.fd == wake_reading:
                os.read(wake_reading, 4096)
                continue
            data = os.read(0, 65536)
            open_still = bool(data)
            *lines, held = (held + data).split(b"\n")
            for line in lines:
                order = json.loads(line)
                if "start" in order:
                    process = os.fork()
                    if process == 0:
                        signal.set_wakeup_fd(-1)
                        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                        _child(order)
                    children[order["start"]] = process
                elif order["kill"] in children:
                    os.kill(children[order["kill"]], signal.SIGKILL)
        _report(children)
    for process in children.values():
        os.kill(process, signal.SIGKILL)


def _report(children: dict[int, int]) -> None:
    """Tell of the children that have ended."""
    for number, process in [*children.items()]:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            del children[number]
            told = {"ended": number, "exit": os.waitstatus_to_exitcode(status)}
            os.write(1, json.dumps(told).encode() + b"\n")


if __name__ == "__main__":
    _parent()
