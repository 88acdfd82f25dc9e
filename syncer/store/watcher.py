"""The process beside each user of the embedded Postgres: it stops the server when the last user has gone.

Nothing that a process does at its end is done by one that is killed. But the kernel closes its pipes and
releases its locks, whatever its end: this process waits for that. It is run as a script, on the standard
library alone, so that it is up at once.
"""

import fcntl
import json
import signal
import subprocess
import sys
from pathlib import Path


def watch(
    folder: str, users: int, stop: list[str], account: tuple[int, int] | None, link: str | None
) -> None:
    """Wait for the end of stdin; then stop the server, unless it has other users or is to be kept.

    folder: the server's; what is in it, `embedded` tells. users: a descriptor that holds our user's shared
    lock. stop: the command, run as `account` (user and group). link: to remove with the server.
    """
    # We have a session of our own, so Ctrl-C does not come here. What a service manager sends to all
    # processes of a service does: but first our user ends, then we.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    with Path(folder, "door").open("ab") as door:
        fcntl.flock(door, fcntl.LOCK_EX)
        if Path(folder, "kept").exists():
            return
        try:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        user, group = account or (None, None)
        subprocess.run(  # noqa: S603  (the command is from the process that started us)
            stop, cwd=folder, user=user, group=group, extra_groups=[] if account else None, check=False
        )
        with Path(folder, "running").open("ab") as running:
            # The command waits until the server has said goodbye; this, until it has gone.
            fcntl.flock(running, fcntl.LOCK_EX)
        if link:
            Path(link).unlink(missing_ok=True)


if __name__ == "__main__":
    watch(**json.loads(sys.argv[1]))
