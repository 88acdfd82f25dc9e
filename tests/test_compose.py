"""compose.yaml without a container engine: each service's command and environment, as a process.

Only where things are is another: the database, the queue's server, and the ports.
"""

import asyncio
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from tests import manifests
from tests.conftest import Finished, Program, finished, rows, until

SERVICES = manifests.compose()["services"]


@pytest.fixture
def elsewhere(database_url: str) -> Iterator[dict[str, str]]:
    """Names in the file, and what stands for them here."""
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        api, health = one.getsockname()[1], two.getsockname()[1]
    yield {
        "postgresql://syncer:syncer@postgres/partners": database_url,
        "queue:5000": "{}:{}".format(*server.get_host_and_port()),
        "partner-central:8700": f"127.0.0.1:{api}",
        "127.0.0.1:8080": f"127.0.0.1:{health}",
        "0.0.0.0": "127.0.0.1",
        "8700": str(api),
        "8080": str(health),
    }
    server.stop()


class Services:
    """The file's services as processes."""

    def __init__(self, folder: Path, elsewhere: dict[str, str]) -> None:
        self.folder = folder
        self.elsewhere = elsewhere

    def here(self, text: str) -> str:
        for name, other in self.elsewhere.items():
            text = text.replace(name, other)
        return text

    async def start(self, name: str, *instead: str) -> asyncio.subprocess.Process:
        """The service `name`, or the command `instead` in its place, as with `docker compose run`."""
        service = SERVICES[name]
        program = Program(
            self.folder, **{key: self.here(value) for key, value in service.get("environment", {}).items()}
        )
        command = [self.here(word) for word in instead or service["command"]]
        if "entrypoint" not in service:
            return await program.start(*command)
        assert service["entrypoint"][0] == "python"
        return await asyncio.create_subprocess_exec(
            sys.executable, *service["entrypoint"][1:], *command,
            cwd=self.folder, env=program.environment,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip

    async def run(self, name: str, *instead: str) -> Finished:
        return await finished(await self.start(name, *instead))


async def test_the_whole_thing_runs_on_a_laptop(
    tmp_path: Path, empty_database_url: str, elsewhere: dict[str, str]
) -> None:
    elsewhere["postgresql://syncer:syncer@postgres/partners"] = empty_database_url
    services = Services(tmp_path, elsewhere)
    queue = await services.run("queue-setup")
    assert queue.exit == 0, queue.stderr
    assert queue.stdout.strip().endswith("/123456789012/connections")
    migrated = await services.run("migrate")
    assert migrated.exit == 0, migrated.stderr

    api = await services.start("partner-central")
    try:
        ids = (await services.run("partner-central", "simulate", "--ids")).stdout.split()
        assert api.stdout
        assert b"1,000 connections" in await api.stdout.readline()
        # At 10 calls/s the whole population takes its time: the first of it will do here.
        cron = await services.start("cron")
        await until(lambda: rows(empty_database_url, "SELECT count(*) >= 20 FROM connection") == [(True,)])
        cron.send_signal(signal.SIGTERM)
        done = await finished(cron)
        assert done.exit == 143, done.stderr

        worker = await services.start("worker")
        (tmp_path / "one.txt").write_text(ids[-1])
        assert (await services.run("cron", "enqueue", "one.txt")).exit == 0
        query = f"SELECT count(*) FROM connection WHERE id = '{ids[-1]}'"
        await until(lambda: rows(empty_database_url, query) == [(1,)])
        check = await asyncio.create_subprocess_exec(
            sys.executable, *(services.here(word) for word in SERVICES["worker"]["healthcheck"]["test"][2:])
        )
        assert await check.wait() == 0
        worker.send_signal(signal.SIGTERM)
        done = await finished(worker)
        assert (done.exit, done.result["written"]) == (143, 1), done.stderr
    finally:
        api.kill()
        await api.wait()


def test_nothing_is_open_to_others_and_nothing_can_be_written_to() -> None:
    for name, service in SERVICES.items():
        assert "ports" not in service
        if service["image"].startswith("syncer:"):
            assert service["read_only"], name
            assert service["cap_drop"] == ["ALL"], name
