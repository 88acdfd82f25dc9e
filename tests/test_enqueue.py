"""Putting IDs on a queue: each once, in batches, and whatever the queue does not take is told."""

import gzip
import secrets
from collections.abc import Awaitable
from typing import Any

import pytest

from syncer.partner_central.population import Population
from syncer.partner_central.simulator import LIST, Faults
from syncer.sources.files import BEGINNING
from tests.conftest import Program, Queues, ids_file, served
from tests.test_sync import assert_in_step
from tests.test_work import before


async def test_from_a_file_through_the_queue_into_the_tables(
    program: Program, database_url: str, queue: Queues
) -> None:
    population = Population(57, seed=120)
    name = ids_file(program.folder, population)
    with (program.folder / name).open("a") as file:
        file.write("no ID\n")
    async with served(program, population):
        # Only work needs the database.
        url = program.environment.pop("DATABASE_URL")
        sent = await program("enqueue", name, "--json")
        program.environment["DATABASE_URL"] = url
        assert sent.exit == 1, sent.stderr
        assert sent.result == {
            "queue_url": queue.url, "read": 58, "sent": 57, "skipped": 0, "invalid": 1, "unsent": 0,
        }  # fmt: skip
        assert queue.left() == 57
        assert (await program("work", "--drain")).exit == 0
    assert_in_step(database_url, population)


async def test_discover_sends_what_a_sync_would_fetch(program: Program, queue: Queues) -> None:
    population = Population(250, seed=121)
    async with served(program, population) as api:
        first = await program("enqueue", "--discover", "--json")
        assert first.exit == 0, first.stderr
        listed = first.result["sent"]
        assert listed == first.result["read"] > 200
        assert (await program("work", "--drain")).exit == 0
        calls = sum(n for (operation, _), n in api.served.items() if operation == LIST)
        again = await program("enqueue", "--discover", "--json")
        assert (again.result["sent"], again.result["skipped"]) == (0, listed)
        everything = await program("enqueue", "--discover", "--full")
    assert calls == -(-listed // 100)
    assert everything.stdout.startswith(f"{listed} of {listed} sent to http")
    assert queue.left() == listed


async def test_what_the_queue_did_not_take_is_sent_again_alone(program: Program, queue: Queues) -> None:
    population = Population(30, seed=122)
    attempts: list[int] = []

    def answer(operation: str, request: dict[str, Any]) -> Awaitable[dict[str, Any] | None] | None:
        return partly(request) if operation == "SendMessageBatch" else None

    async def partly(request: dict[str, Any]) -> dict[str, Any] | None:
        entries = request["Entries"]
        assert isinstance(entries, list)
        attempts.append(len(entries))
        if len(entries) < 10:
            return None
        queue.sqs.send_message_batch(QueueUrl=queue.url, Entries=entries[:7])
        return {
            "Successful": [],
            "Failed": [{"Id": e["Id"], "Code": "InternalError", "SenderFault": False} for e in entries[7:]],
        }

    async with before(program, answer):
        done = await program("enqueue", ids_file(program.folder, population), "--json")
    assert (done.exit, done.result["sent"]) == (0, 30), done.stderr
    assert sorted(attempts) == [3, 3, 3, 10, 10, 10]
    assert queue.left() == 30


async def test_a_queue_that_takes_nothing(program: Program, queue: Queues) -> None:
    async def nothing(request: dict[str, Any]) -> dict[str, Any]:
        entries = request["Entries"]
        assert isinstance(entries, list)
        return {"Failed": [{"Id": e["Id"], "Code": "Busy", "SenderFault": False} for e in entries]}

    async with before(program, lambda operation, r: nothing(r) if operation == "SendMessageBatch" else None):
        done = await program("enqueue", ids_file(program.folder, Population(15, seed=123)), "--json")
    assert (done.exit, done.result["sent"], done.result["unsent"]) == (75, 0, 15)
    assert "it takes no messages" in done.stderr
    assert queue.left() == 0


async def test_a_file_that_ends_in_its_middle_is_told(program: Program, queue: Queues) -> None:
    ids = "\n".join(Population(200, seed=126).identifiers()).encode()
    # What is wrong within the beginning of a file is told before anything is sent.
    padding = b"".join(b"\n# " + secrets.token_hex(32).encode() for _ in range(2 * BEGINNING // 32))
    (program.folder / "ids.txt.gz").write_bytes(gzip.compress(ids + padding)[:-9])
    done = await program("enqueue", "ids.txt.gz", "--json")
    assert done.exit == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "ids.txt.gz" in done.stderr
    assert done.result["sent"] == queue.left() > 0


async def test_a_listing_that_breaks_off_is_told(program: Program, queue: Queues) -> None:
    population = Population(300, seed=124)

    def answer(operation: str, request: dict[str, Any]) -> dict[str, Any] | None:
        return {"nonsense": []} if operation == LIST and request.get("NextToken") else None

    async with served(program, population, Faults(), answer=answer):
        done = await program("enqueue", "--discover", "--json")
    assert (done.exit, done.result["sent"]) == (75, 100), done.stderr
    assert "what it showed until then is on the queue" in done.stderr
    assert queue.left() == 100


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        ([], 2, "name files, or --discover"),
        (["ids.txt", "--discover"], 2, "name files, or --discover"),
        (["ids.txt", "--full"], 2, "--full is for --discover"),
        (["nowhere.txt"], 2, "no such file"),
        (["ids.txt", "--queue-url", "http://127.0.0.1/123456789012/x.fifo"], 2, "is a FIFO queue"),
        (["ids.txt", "--queue-url", "http://127.0.0.1/123456789012/x"], 78, "there is no queue"),
    ],
)
@pytest.mark.usefixtures("queue")
async def test_what_cannot_be_is_refused_in_one_line(
    program: Program, arguments: list[str], exit_code: int, message: str
) -> None:
    ids_file(program.folder, Population(1, seed=125))
    done = await program("enqueue", *arguments)
    assert (done.exit, len(done.stderr.splitlines())) == (exit_code, 1), done.stderr
    assert message in done.stderr
