"""Workers on a queue, as processes, over the real SQS protocol: what is sent is settled, whatever happens."""

import asyncio
import json
import random
import signal
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import psycopg
import pytest
from aiohttp import web
from sqlalchemy import make_url

from syncer.partner_central.population import OWN_ACCOUNT, Population
from syncer.partner_central.simulator import GET, Faults, Simulator
from syncer.settings import Input, RunSettings
from syncer.store.embedded import embedded
from syncer.store.schema import migrate
from syncer.work import WorkSettings, work
from tests.conftest import Program, Queues, finished, own_folder, rows, served, until
from tests.test_sync import assert_in_step


def fetched(api: Simulator) -> int:
    """Calls of GetConnection that were served."""
    return sum(calls for (operation, _), calls in api.served.items() if operation == GET)


def event(identifier: str, kind: str = "Partner Connection Invitation Accepted") -> dict[str, Any]:
    return {
        "version": "0",
        "source": "aws.partnercentral-account",
        "detail-type": kind,
        "detail": {
            "catalog": "AWS",
            "connection": {"id": identifier},
            "connectionInvitation": {"id": "pacinv-1"},
        },
    }


async def test_every_form_of_message_is_settled_and_deleted(
    program: Program, database_url: str, queue: Queues
) -> None:
    population = Population(12, seed=100)
    ids = [*population.identifiers()]
    queue.send(
        ids[0],
        population.connection(1)["Arn"],
        json.dumps(ids[2]),
        {"id": ids[3]},
        {"connection_id": ids[4], "catalog": "AWS"},
        [ids[5], {"Identifier": ids[6]}],
        event(ids[7]),
        {"Type": "Notification", "TopicArn": "arn:x", "Message": json.dumps(event(ids[8]))},
        ids[0],
        event("", "Partner Connection Invitation Received") | {"detail": {"connectionInvitation": {}}},
        *ids[9:],
        "pac-1;drop table",
        {"nothing": "here"},
    )
    async with served(program, population) as api:
        done = await program("work", "--drain", "--json")
    assert done.exit == 1, done.stderr
    assert done.result["source"] == "queue"
    assert (done.result["read"], done.result["written"], done.result["invalid"]) == (15, 12, 2)
    # A message of the last second may tell of something that the call before it did not see.
    assert done.result["duplicate"] + done.result["skipped"] + done.result["unchanged"] == 1
    assert fetched(api) == 12 + done.result["unchanged"]
    assert_in_step(database_url, population)
    assert (queue.left(), queue.left(queue.dead_url)) == (0, 0)
    assert done.events("message_ignored")[0]["kind"] == "Partner Connection Invitation Received"
    assert done.events("worker_stopped")[0]["ignored"] == 1
    failures = dict(rows(database_url, "SELECT identifier, code FROM sync_failure"))
    assert failures.pop("pac-1;drop table") == "InvalidIdentifier"
    assert next(iter(failures)).startswith("message ")
    assert rows(database_url, "SELECT source, status, read FROM sync_run") == [("queue", "partial", 15)]


async def test_workers_that_are_killed_lose_nothing(
    program: Program, database_url: str, queue: Queues
) -> None:
    """Killed at random moments and started again until the queue is drained: nothing is lost or left over."""
    dice = random.Random(1)
    population = Population(400, seed=101)
    ids = [*population.identifiers()]
    bodies = [*ids, *dice.sample(ids, 40), *[f"poison {number}" for number in range(4)]]
    dice.shuffle(bodies)
    queue.send(*bodies)
    kills = 0
    async with served(program, population, Faults(latency=0.02, jitter=0.02, rate=150, burst=20)) as api:

        async def worker() -> int:
            nonlocal kills
            for moment in (dice.uniform(0.8, 2.5), dice.uniform(0.8, 2.5)):
                process = await program.start("work", "--drain", "--concurrency", "8", "--batch-size", "20")
                try:
                    # The moment is the point here, not a wait for anything.
                    return await asyncio.wait_for(process.wait(), moment)
                except TimeoutError:
                    process.kill()
                    kills += 1
                    await process.wait()
            done = await program("work", "--drain", "--concurrency", "8", "--batch-size", "20")
            assert "Traceback" not in done.stderr
            return done.exit

        exits = await asyncio.gather(*(worker() for _ in range(3)))
    assert set(exits) <= {0, 1}
    assert kills
    assert_in_step(database_url, population)
    assert rows(database_url, "SELECT count(*) FROM sync_failure") == [(4,)]
    assert (queue.left(), queue.left(queue.dead_url)) == (0, 0)
    in_flight = 8 + 2 * 20
    assert fetched(api) <= len(ids) + kills * in_flight
    assert rows(database_url, "SELECT count(*) FROM sync_run WHERE status = 'running'") == [(0,)]
    assert rows(
        database_url, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    ) == [(0,)]


async def test_sigterm_ends_it_in_order_and_gives_everything_back(
    program: Program, database_url: str, queue: Queues
) -> None:
    population = Population(300, seed=102)
    queue.send(*population.identifiers())
    async with served(program, population, Faults(rate=5, burst=5, latency=0.05)) as api:
        process = await program.start("work", "--json")
        await until(lambda: fetched(api) > 5)
        process.send_signal(signal.SIGTERM)
        done = await finished(process)
    assert done.exit == 143, done.stderr
    assert done.result["status"] == "interrupted"
    written = done.result["written"]
    assert written == rows(database_url, "SELECT count(*) FROM connection")[0][0]
    # All the rest can be seen again at once.
    assert queue.depth() == (300 - written, 0)


async def test_sigterm_during_a_long_poll(program: Program, queue: Queues) -> None:
    population = Population(3, seed=103)
    async with served(program, population):
        queue.send(population.identifier(0))
        process = await program.start("work", "--json")
        await until(lambda: queue.left() == 0)
        process.send_signal(signal.SIGTERM)
        queue.send(population.identifier(1))
        done = await finished(process)
    assert done.exit == 143, done.stderr
    assert queue.depth() == (1, 0)


async def test_messages_are_held_for_as_long_as_they_wait(program: Program, queue: Queues) -> None:
    """A long wait for the quota: nobody else may see a message meanwhile, or it is worked on twice.

    The last ones wait for longer than the ten seconds that a message is hidden at least.
    """
    population = Population(8, seed=104)
    queue.sqs.set_queue_attributes(QueueUrl=queue.url, Attributes={"VisibilityTimeout": "2"})
    queue.send(*population.identifiers())
    async with served(program, population, Faults(rate=0.5, burst=1)) as api:
        done = await program("work", "--drain", "--json")
    assert (done.exit, done.result["written"]) == (0, 8), done.stderr
    assert done.result["read"] == 8
    assert done.result["throttled"] >= 1
    assert sum(n for (op, result), n in api.served.items() if op == GET and result == "ok") == 8
    assert (queue.left(), queue.left(queue.dead_url)) == (0, 0)


@asynccontextmanager
async def before(
    program: Program, answer: Callable[[str, dict[str, Any]], Awaitable[dict[str, Any] | None] | None]
) -> AsyncIterator[None]:
    """Put a proxy before the queue's server, that may answer for it, or hold a request up.

    answer: given the operation and its request; None to let it through.
    """
    endpoint = program.environment["AWS_ENDPOINT_URL_SQS"]

    async def handle(http: web.BaseRequest) -> web.Response:
        data = await http.read()
        operation = http.headers["X-Amz-Target"].partition(".")[2]
        told = answer(operation, json.loads(data))
        instead = await told if told is not None else None
        if instead is not None:
            return web.json_response(instead)
        async with (
            aiohttp.ClientSession() as client,
            client.post(endpoint, data=data, headers=http.headers) as answered,
        ):
            return web.Response(
                body=await answered.read(), status=answered.status, content_type=answered.content_type
            )

    runner = web.ServerRunner(web.Server(handle))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    program.environment["AWS_ENDPOINT_URL_SQS"] = site.name
    try:
        yield
    finally:
        await runner.cleanup()


async def test_what_a_batch_did_not_delete_is_deleted_alone(program: Program, queue: Queues) -> None:
    """An answer of 200 that says of every third message that it failed, and a lapsed handle."""
    population = Population(30, seed=105)
    queue.send(*population.identifiers())
    refused: set[str] = set()
    batches: list[list[str]] = []

    async def partly(request: dict[str, Any]) -> dict[str, Any]:
        entries = request["Entries"]
        batches.append([entry["ReceiptHandle"] for entry in entries])
        failing = [e for n, e in enumerate(entries) if n % 3 == 0 and e["ReceiptHandle"] not in refused]
        refused.update(entry["ReceiptHandle"] for entry in failing)
        rest = [entry for entry in entries if entry not in failing]
        if rest:
            await asyncio.to_thread(queue.sqs.delete_message_batch, QueueUrl=queue.url, Entries=rest)
        return {
            "Successful": [{"Id": entry["Id"]} for entry in rest],
            "Failed": [{"Id": e["Id"], "Code": "InternalError", "SenderFault": False} for e in failing],
        }

    def answer(operation: str, request: dict[str, Any]) -> Awaitable[dict[str, Any]] | None:
        return partly(request) if operation == "DeleteMessageBatch" else None

    async with served(program, population) as api, before(program, answer):
        done = await program("work", "--drain", "--json")
    assert (done.exit, done.result["written"]) == (0, 30), done.stderr
    assert (queue.left(), fetched(api)) == (0, 30)
    deleted = Counter(handle for batch in batches for handle in batch)
    assert all(times == 1 + (handle in refused) for handle, times in deleted.items())


async def test_a_handle_that_has_lapsed_is_no_error(program: Program, queue: Queues) -> None:
    population = Population(5, seed=106)
    queue.send(*population.identifiers())

    async def lapsed(request: dict[str, Any]) -> dict[str, Any]:
        code = "ReceiptHandleIsInvalid"
        return {"Failed": [{"Id": e["Id"], "Code": code, "SenderFault": True} for e in request["Entries"]]}

    told = 0

    def answer(operation: str, request: dict[str, Any]) -> Awaitable[dict[str, Any]] | None:
        nonlocal told
        told += operation == "DeleteMessageBatch"
        return lapsed(request) if operation == "DeleteMessageBatch" and told == 1 else None

    async with served(program, population), before(program, answer):
        done = await program("work", "--drain", "--json")
    assert done.exit == 0, done.stderr
    # They came again, and changed nothing.
    assert done.result["written"] == 5
    assert done.result["skipped"] + done.result["unchanged"] == done.result["read"] - 5
    assert queue.left() == 0


async def test_what_fails_is_left_to_the_redrive_policy(
    program: Program, database_url: str, queue: Queues
) -> None:
    population = Population(4, seed=107)
    bad = population.identifier(2)
    population.overrides[bad] = {"Id": bad}
    queue.send(*population.identifiers())
    async with served(program, population):
        done = await program("work", "--drain", "--json")
    assert (done.exit, done.result["failed"], done.result["written"]) == (1, 1, 3), done.stderr
    assert rows(database_url, "SELECT identifier, code FROM sync_failure") == [(bad, "UnreadableAnswer")]
    assert queue.depth() == (0, 1)  # not to be seen for half a minute


async def test_poison_goes_where_it_is_told_to(program: Program, database_url: str, queue: Queues) -> None:
    queue.send("no ID")
    async with served(program, Population(1, seed=108)):
        done = await program("work", "--drain", "--json", "--invalid-to", "redrive")
    assert done.exit == 1, done.stderr
    assert (queue.left(), queue.left(queue.dead_url)) == (0, 1)
    assert rows(database_url, "SELECT identifier FROM sync_failure") == [("no ID",)]


async def test_an_outage_of_the_api_is_waited_for_without_receiving(
    program: Program, database_url: str, queue: Queues
) -> None:
    population = Population(60, seed=109)
    denied = False

    def answer(operation: str, _: dict[str, Any]) -> web.Response | None:
        if operation == GET and denied:
            return web.json_response({"__type": "ExpiredTokenException"}, status=400)
        return None

    async with served(program, population, Faults(latency=0.01), answer=answer) as api:
        queue.send(population.identifier(0))
        process = await program.start("work", "--concurrency", "4", "--json")
        assert process.stderr is not None
        await until(lambda: rows(database_url, "SELECT count(*) FROM connection") == [(1,)])
        denied = True
        queue.send(*[*population.identifiers()][1:])
        while b"receiving_paused" not in await process.stderr.readline():
            pass
        assert queue.depth()[0] >= 20  # these were not received
        denied = False
        await until(lambda: rows(database_url, "SELECT count(*) FROM connection") == [(60,)])
        await until(lambda: queue.left() == 0)
        process.send_signal(signal.SIGTERM)
        done = await finished(process)
    assert done.exit == 143
    assert "receiving_resumed" in done.stderr
    assert (done.result["read"], done.result["written"]) == (60, 60)
    assert fetched(api) >= 60
    assert queue.left(queue.dead_url) == 0


async def test_who_was_never_let_in_does_not_wait(program: Program, queue: Queues) -> None:
    population = Population(3, seed=110)
    queue.send(*population.identifiers())

    def answer(*_: object) -> web.Response:
        return web.json_response({"__type": "AccessDeniedException"}, status=400)

    async with served(program, population, answer=answer):
        done = await program("work", "--json")
    assert (done.exit, done.result["released"]) == (77, done.result["read"]), done.stderr
    assert queue.depth() == (3, 0)


async def test_a_database_that_is_gone_is_waited_for_without_receiving(
    program: Program, queue: Queues
) -> None:
    population = Population(400, seed=111)
    queue.send(*population.identifiers())
    with own_folder() as folder, embedded(folder) as server:
        await migrate(server.url)
        url = server.url
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE ROLE worker LOGIN")
            connection.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO worker")
        program.environment["DATABASE_URL"] = (
            make_url(url).set(username="worker").render_as_string(hide_password=False)
        )
        async with served(program, population, Faults(latency=0.02)):
            process = await program.start("work", "--batch-size", "10", "--concurrency", "4", "--json")
            assert process.stderr is not None
            await until(lambda: rows(url, "SELECT count(*) > 20 FROM connection") == [(True,)])
            with psycopg.connect(url, autocommit=True) as connection:
                # As a server that is full: new connections are turned away, the old ones are cut.
                connection.execute("ALTER ROLE worker CONNECTION LIMIT 0")
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'worker'"
                )
            while b"receiving_paused" not in await process.stderr.readline():
                pass
            received = queue.depth()[1]
            assert received < 100
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute("ALTER ROLE worker CONNECTION LIMIT -1")
            await until(lambda: rows(url, "SELECT count(*) FROM connection") == [(400,)])
            await until(lambda: queue.left() == 0)
            process.send_signal(signal.SIGTERM)
            done = await finished(process)
        assert done.exit == 143, done.stderr
        assert_in_step(url, population)
    assert done.result["read"] == done.result["written"] == 400
    assert queue.left(queue.dead_url) == 0


@pytest.mark.parametrize(
    ("arguments", "variables", "told"),
    [
        ([], {"SYNCER_QUEUE_URL": ""}, (78, "which queue?")),
        (["http://127.0.0.1/123456789012/nowhere"], {}, (78, "there is no queue")),
        (["nowhere"], {}, (78, "is no queue's URL")),
        (["--invalid-to", "heaven"], {}, (2, "it is delete or redrive")),
        ([], {"AWS_ENDPOINT_URL_SQS": "http://127.0.0.1:9"}, (75, "no answer")),
    ],
)
@pytest.mark.usefixtures("queue")
async def test_a_queue_that_cannot_be_used(
    program: Program, arguments: list[str], variables: dict[str, str], told: tuple[int, str]
) -> None:
    program.environment |= variables
    async with served(program, Population(1, seed=112)):
        done = await program("work", *arguments)
    assert (done.exit, len(done.stderr.splitlines())) == (told[0], 1), done.stderr
    assert told[1] in done.stderr


async def test_a_dry_run_gives_everything_back(program: Program, database_url: str, queue: Queues) -> None:
    population = Population(5, seed=113)
    queue.send(*population.identifiers(), "no ID")
    async with served(program, population):
        done = await program("work", "--dry-run", "--json")
    assert (done.exit, done.result["written"], done.result["invalid"]) == (1, 5, 1), done.stderr
    assert queue.depth() == (6, 0)
    for table in ("connection", "sync_run", "sync_failure", "request_rate"):
        assert rows(database_url, f"SELECT count(*) FROM {table}") == [(0,)]


@pytest.mark.usefixtures("queue")
async def test_health_is_told_to_whoever_asks(program: Program) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    async with served(program, Population(1, seed=114)):
        process = await program.start("work", "--health-port", str(port))
        answer = None
        async with aiohttp.ClientSession() as client:
            async with asyncio.timeout(30):
                while answer is None:
                    try:
                        async with client.get(f"http://127.0.0.1:{port}/healthz") as response:
                            answer = response.status, (await response.json())["alive"]
                    except aiohttp.ClientConnectorError:
                        await asyncio.sleep(0.05)
        again = await program("work", "--health-port", str(port))
        process.send_signal(signal.SIGINT)
        done = await finished(process)
    assert answer == (200, True)
    assert (again.exit, done.exit) == (2, 130)
    assert f"cannot listen on 127.0.0.1:{port}" in again.stderr


async def test_removals_need_no_hour(program: Program, database_url: str, queue: Queues) -> None:
    population = Population(100, seed=115)
    async with served(program, population):
        queue.send(*population.identifiers())
        assert (await program("work", "--drain")).exit == 0
        population.overrides[population.identifier(0)] = None
        queue.send(population.identifier(0))
        process = await program.start("work", "--json")
        removed = "SELECT id FROM connection WHERE removed_at IS NOT NULL"
        await until(lambda: rows(database_url, removed) == [(population.identifier(0),)])
        await until(lambda: queue.left() == 0)
        process.send_signal(signal.SIGTERM)
        done = await finished(process)
    assert (done.exit, done.result["missing"], done.result["failed"]) == (143, 1, 0)
    assert rows(database_url, "SELECT count(*) FROM sync_failure") == [(0,)]


async def test_an_api_that_fails_for_everybody_costs_no_message_its_receipts(
    program: Program, database_url: str, queue: Queues
) -> None:
    population = Population(120, seed=116)
    failing = True

    def answer(operation: str, _: dict[str, Any]) -> web.Response | None:
        if operation == GET and failing:
            return web.json_response({"__type": "InternalServerException"}, status=500)
        return None

    queue.send(*population.identifiers())
    async with served(program, population, Faults(latency=0.01), answer=answer):
        arguments = ("--concurrency", "4", "--max-attempts", "1", "--json")
        process = await program.start("work", *arguments)
        assert process.stderr is not None
        while b"receiving_paused" not in await process.stderr.readline():
            pass
        seen, _ = queue.depth()
        assert seen >= 60
        failing = False
        # The ten that failed first come again in half a minute.
        await until(lambda: rows(database_url, "SELECT count(*) FROM connection") == [(110,)])
        process.send_signal(signal.SIGTERM)
        done = await finished(process)
    assert done.exit == 143
    assert (done.result["written"], done.result["failed"]) == (110, 10)
    assert rows(database_url, "SELECT count(*) FROM sync_failure") == [(10,)]
    assert queue.left(queue.dead_url) == 0


async def test_a_long_day_has_many_rows(
    program: Program, database_url: str, queue: Queues, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker's runs follow each other; what one has not taken, the next one does."""
    population = Population(90, seed=117)
    queue.send(*population.identifiers())
    async with served(program, population, Faults(rate=20, burst=5, latency=0.01)) as api:
        for name, value in program.environment.items():
            monkeypatch.setenv(name, value)
        settings = WorkSettings(
            run=RunSettings(input=Input.QUEUE, account_id=OWN_ACCOUNT, concurrency=4),
            queue_url=queue.url,
            drain=True,
            shift=1.0,
        )
        done = await work(settings, database_url)
    assert (done.exit, done.counts["written"]) == (0, 90)
    assert_in_step(database_url, population)
    told = "SELECT count(*) > 2, sum(read), sum(written), count(DISTINCT status) FROM sync_run"
    assert rows(database_url, told) == [(True, 90, 90, 1)]
    assert sum(n for (op, result), n in api.served.items() if op == GET and result == "ok") == 90
    assert queue.left() == 0
