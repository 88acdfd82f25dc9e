"""A Postgres of another version, or with other settings, than the embedded one: a cluster on loopback.

    python -m tests.cluster /usr/lib/postgresql/15/bin pytest tests/test_sync.py

runs a command with such a server as SYNCER_TEST_DATABASE_URL.
"""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

# Where Debian puts the programs of each version.
DEBIAN = Path("/usr/lib/postgresql")

# What a test's server need not outlive, and how it is reached.
SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
}
TRUSTING = ("host all all 127.0.0.1/32 trust",)


def installed() -> Path | None:
    """The programs of the newest Postgres that the distribution has installed."""
    found = sorted(DEBIAN.glob("*/bin/initdb"), key=lambda path: int(path.parent.parent.name))
    return found[-1].parent if found else None


# Where it is said to be CI, there has to be one: a test that is never carried out holds nothing.
needs_another = pytest.mark.skipif(
    installed() is None and not os.environ.get("CI"), reason="needs a Postgres: apt-get install postgresql"
)


@dataclass(frozen=True, slots=True)
class Cluster:
    """A running server. port: on 127.0.0.1."""

    port: int

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"


@contextmanager
def cluster(
    programs: Path | None = None,
    *,
    settings: Mapping[str, str] = {},
    access: Sequence[str] = TRUSTING,
    files: Mapping[str, bytes] = {},
) -> Iterator[Cluster]:
    """A new server, until the context ends.

    programs: the folder with `initdb`; None for the distribution's. access: the lines of `pg_hba.conf`.
    files: by name, to lie among its data, for no other to read.
    """
    programs = programs or installed()
    assert programs is not None, "a Postgres has to be here: apt-get install postgresql"
    with tempfile.TemporaryDirectory(prefix="syncer-cluster-") as name:
        folder = Path(name)
        data, log = folder / "data", folder / "log"
        # It refuses to be root.
        account = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        if account:
            os.chown(folder, account.pw_uid, account.pw_gid)

        def start(program: str, *arguments: str) -> subprocess.Popen[bytes]:
            with log.open("ab") as output:
                return subprocess.Popen(
                    [str(programs / program), *arguments],
                    cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                    user=account and account.pw_uid, group=account and account.pw_gid,
                    extra_groups=[] if account else None,
                )  # fmt: skip

        made = start(
            "initdb", "-D", "data", "-U", "postgres", "-E", "UTF8", "--no-locale", "-A", "trust", "-N"
        )
        assert made.wait() == 0, log.read_text()
        (data / "pg_hba.conf").write_text("".join(f"{line}\n" for line in access))
        for file, content in files.items():
            (data / file).write_bytes(content)
            (data / file).chmod(0o600)
            if account:
                os.chown(data / file, account.pw_uid, account.pw_gid)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        options = [
            f"--{name}={value}" for name, value in (SETTINGS | {"port": str(port)} | dict(settings)).items()
        ]
        server = start("postgres", "-D", "data", *options)
        try:
            while b"ready to accept connections" not in log.read_bytes():
                assert server.poll() is None, log.read_text()
            yield Cluster(port)
        finally:
            server.send_signal(signal.SIGQUIT)  # at once, but its processes with it
            server.wait()


if __name__ == "__main__":
    with cluster(Path(sys.argv[1])) as server:
        command = [shutil.which(sys.argv[2]) or sys.argv[2], *sys.argv[3:]]
        sys.exit(subprocess.call(command, env=os.environ | {"SYNCER_TEST_DATABASE_URL": server.url}))
