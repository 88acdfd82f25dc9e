"""The faults, row by row: what is done, what the user sees, what the ledger says. README shows this table."""

import asyncio
import gzip
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from aiohttp import web

from syncer.outcomes import Outcome
from syncer.partner_central.simulator import GET
from tests.conftest import Finished, until
from tests.faults.proxy import Trouble
from tests.faults.scene import IDS, Scene
from tests.test_work import before

Act = Callable[[Scene], Awaitable[Finished]]
Ledger = Mapping[Outcome, int | None]

WRITTEN, UNCHANGED, FAILED, RELEASED = Outcome.WRITTEN, Outcome.UNCHANGED, Outcome.FAILED, Outcome.RELEASED
ALL: Ledger = {WRITTEN: IDS}
ALL_BUT_ONE: Ledger = {WRITTEN: IDS - 1, FAILED: 1}
# A batch whose connection was cut amid its commit is written once more: then nothing is left to change.
STORED: Ledger = {WRITTEN: None, UNCHANGED: None}
# What was not deleted comes again, and need not be fetched.
AGAIN: Ledger = {WRITTEN: IDS, Outcome.SKIPPED: None, Outcome.DUPLICATE: None}
REST_RELEASED: Ledger = {WRITTEN: None, RELEASED: None}
NONE_SETTLED: Ledger = {RELEASED: None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One row.

    where, done: for README. act: does it, and runs the program. exit, says: how that ends, and what is among
    its last words or its log; "" if nothing need be said. ledger: see `Scene.assert_ledger`; None: the run
    did not begin. own_server: it needs a server of its own.
    """

    where: str
    done: str
    act: Act
    exit: int = 0
    says: str = ""
    ledger: Ledger | None
    own_server: bool = False

    def cells(self) -> list[str]:
        """As README has it."""
        return [
            self.where,
            self.done,
            f"{self.exit}" + (f", `{self.says}`" if self.says else ""),
            _told(self.ledger),
        ]


def _told(ledger: Ledger | None) -> str:
    if ledger is None:
        return "no run began"
    if ledger is STORED:
        return "all `written` or `unchanged`"
    if ledger is AGAIN:
        return "all `written`; what comes again is `skipped`"
    some = ["all" if count == IDS else "some" if count is None else str(count) for count in ledger.values()]
    return ", ".join(f"{count} `{outcome.value}`" for count, outcome in zip(some, ledger, strict=True))


# --- the API ---


def trouble(trouble: Trouble, *arguments: str) -> Act:
    """The API's answers meet `trouble` from the beginning."""

    async def act(scene: Scene) -> Finished:
        scene.api.trouble = trouble
        return await scene.run(*arguments)

    return act


def one_answer(answer: Callable[[Scene], Any], calls: int = 1) -> Act:
    """One ID gets this answer, and is asked for so many times."""

    async def act(scene: Scene) -> Finished:
        scene.simulator.count_identifiers = True

        def strange(operation: str, request: dict[str, Any]) -> Any:
            return answer(scene) if operation == GET and request["Identifier"] == scene.bad else None

        scene.simulator.answer = strange
        done = await scene.run("--max-attempts", "2")
        assert scene.simulator.calls[scene.bad] == calls, scene.simulator.calls
        scene.simulator.calls.clear()
        return done

    return act


def raw(body: bytes, content_type: str = "application/x-amz-json-1.0", **options: Any) -> web.Response:
    headers = {"Content-Type": content_type} | options.pop("headers", {})
    return web.Response(body=body, headers=headers, **options)


def right(scene: Scene) -> bytes:
    return json.dumps(scene.population.get(scene.bad)).encode()


def after(served: int, code: str, message: str) -> Act:
    """So many calls are served, then everybody gets this error."""

    async def act(scene: Scene) -> Finished:
        calls = 0

        def answer(*_: object) -> web.Response | None:
            nonlocal calls
            calls += 1
            if calls <= served:
                return None
            return web.json_response({"__type": code, "Message": message}, status=400)

        scene.simulator.answer = answer
        return await scene.run()

    return act


async def api_refuses(scene: Scene) -> Finished:
    process = await scene.start("--max-attempts", "1")
    await scene.api.refuse()
    return await scene.end(process)


async def hangs(scene: Scene) -> Finished:
    async def answer(operation: str, request: dict[str, Any]) -> None:
        if operation == GET and request["Identifier"] == scene.bad:
            await asyncio.Event().wait()

    scene.simulator.answer = answer
    return await scene.run("--max-attempts", "1")


async def clock_is_off(scene: Scene) -> Finished:
    """The server judges each request by a clock that is ten minutes ahead, as AWS does: by five at most."""
    now = datetime.now(UTC) + timedelta(minutes=10)
    return await after(
        0,
        "InvalidSignatureException",
        f"Signature expired: {now - timedelta(minutes=10):%Y%m%dT%H%M%SZ} is now earlier than "
        f"{now - timedelta(minutes=5):%Y%m%dT%H%M%SZ} ({now:%Y%m%dT%H%M%SZ} - 5 min.)",
    )(scene)


# --- Postgres ---


def database_trouble(trouble: Trouble, *, cuts: int = 0) -> Act:
    """The database's answers meet `trouble` once the first rows are written."""

    async def act(scene: Scene) -> Finished:
        process = await scene.start()
        scene.database.trouble = trouble
        done = await scene.end(process)
        assert scene.database.cuts >= cuts
        return done

    return act


async def database_cuts(scene: Scene) -> Finished:
    process = await scene.start()
    for _ in range(2):
        before = scene.database.connections
        scene.database.cut()
        await scene.reads(process, "write_replayed")
        await until(lambda before=before: scene.database.connections > before)  # type: ignore[misc]  # a default binds it
    return await scene.end(process)


async def database_refuses_for_a_while(scene: Scene) -> Finished:
    process = await scene.start()
    await scene.database.refuse()
    await scene.reads(process, "write_replayed")
    await scene.database.accept()
    return await scene.end(process)


async def database_falls_silent(scene: Scene) -> Finished:
    process = await scene.start("--max-runtime", "3")
    scene.database.trouble = Trouble(silent=True)
    return await scene.end(process)


def role(change: str, *, back: str) -> Act:
    """The role is changed, its connections are cut; put right once the program has met it."""

    async def act(scene: Scene) -> Finished:
        process = await scene.start()
        scene.role(change, back=back)
        scene.database.cut()
        # Once for the connection that was lost, once for what the new one meets.
        for _ in range(2):
            await scene.reads(process, "write_replayed")
        await scene.lifting.aclose()
        return await scene.end(process)

    return act


def role_from_the_start(change: str, *, back: str) -> Act:
    async def act(scene: Scene) -> Finished:
        scene.role(change, back=back)
        return await scene.run()

    return act


def role_that_stays(change: str, *, back: str) -> Act:
    async def act(scene: Scene) -> Finished:
        process = await scene.start("--max-runtime", "4")
        scene.role(change, back=back)
        scene.database.cut()
        return await scene.end(process)

    return act


# A row that is held by somebody else for longer than the database lets a statement take.
async def statement_times_out(scene: Scene) -> Finished:
    with scene.holding("LOCK TABLE connection IN SHARE MODE"):
        scene.role("SET statement_timeout = '200ms'", back="RESET statement_timeout")
        process = await scene.program.start(*scene.command())
        await scene.reads(process, "write_replayed")
    return await scene.end(process)


# --- a server of its own ---


async def server_restarts(scene: Scene) -> Finished:
    process = await scene.start()
    scene.server("-m", "immediate", "restart")
    return await scene.end(process)


async def server_recovers(scene: Scene) -> Finished:
    """As a failover: the server comes back as a standby, and is promoted once the program has met it so."""
    process = await scene.start()
    (scene.data / "standby.signal").touch()
    scene.server("-m", "fast", "restart")
    for _ in range(2):  # once for the connection that was lost, once for the standby
        await scene.reads(process, "write_replayed")
    scene.server("promote")
    return await scene.end(process)


async def disk_fills_up(scene: Scene) -> Finished:
    """The tables are on a small disk that somebody else fills, and clears once the program has met it."""
    disk = scene.small_disk()
    process = await scene.start()
    disk.fill()
    await scene.reads(process, "write_replayed")
    disk.clear()
    return await scene.end(process)


# --- the queue ---


def queue_trouble(trouble: Trouble, *, cuts: int = 0) -> Act:
    async def act(scene: Scene) -> Finished:
        assert scene.queue_proxy is not None
        process = await scene.start()
        scene.queue_proxy.trouble = trouble
        done = await scene.end(process)
        assert scene.queue_proxy.cuts >= cuts
        return done

    return act


async def queue_refuses(scene: Scene) -> Finished:
    assert scene.queue_proxy is not None
    await scene.queue_proxy.refuse()
    return await scene.run()


async def deletes_fail_in_part(scene: Scene) -> Finished:
    """An answer of 200 that says of every message that it could not be deleted; three times."""
    refused = 0

    async def refusal(request: dict[str, Any]) -> dict[str, Any]:
        return {
            "Failed": [
                {"Id": entry["Id"], "Code": "InternalError", "SenderFault": False}
                for entry in request["Entries"]
            ]
        }

    def answer(operation: str, request: dict[str, Any]) -> Awaitable[dict[str, Any]] | None:
        nonlocal refused
        refused += operation == "DeleteMessageBatch"
        return refusal(request) if operation == "DeleteMessageBatch" and refused <= 3 else None

    endpoint = scene.program.environment["AWS_ENDPOINT_URL_SQS"]
    try:
        async with before(scene.program, answer):
            return await scene.run()
    finally:
        scene.program.environment["AWS_ENDPOINT_URL_SQS"] = endpoint


GZIPPED = {"Content-Encoding": "gzip"}
API, POSTGRES, QUEUE = "API", "Postgres", "queue"
READ_ONLY = "SET default_transaction_read_only = on"
WRITABLE = "RESET default_transaction_read_only"

TABLE = (
    Fault(where=API, done="0.2 s more for each answer", act=trouble(Trouble(latency=0.2)), ledger=ALL),
    Fault(
        where=API,
        done="10 connections cut in the middle of an answer",
        act=trouble(Trouble(cut_after=300, times=10)),
        ledger=ALL,
    ),
    Fault(
        where=API,
        done="10 answers truncated: the connection ends too soon",
        act=trouble(Trouble(cut_after=300, ends=True, times=10)),
        ledger=ALL,
    ),
    Fault(
        where=API,
        done="every answer truncated",
        act=trouble(Trouble(cut_after=150, ends=True), "--max-attempts", "2"),
        exit=75,
        says="Partner Central does not answer",
        ledger=NONE_SETTLED,
    ),
    Fault(
        where=API,
        done="refuses connections from some moment on",
        act=api_refuses,
        exit=75,
        says="Partner Central does not answer",
        ledger={WRITTEN: None, FAILED: None, RELEASED: None},
    ),
    Fault(
        where=API,
        done="half-open: silent, but nothing is closed",
        act=trouble(Trouble(silent=True), "--max-attempts", "1"),
        exit=75,
        says="Partner Central does not answer",
        ledger=NONE_SETTLED,
    ),
    Fault(
        where=API,
        done="slow drip: a byte per 0.1 s",
        act=trouble(Trouble(drip=0.1), "--max-attempts", "1"),
        exit=75,
        says="Partner Central does not answer",
        ledger=NONE_SETTLED,
    ),
    Fault(
        where=API,
        done="hangs on one ID",
        act=hangs,
        exit=1,
        says="TimeoutError",
        ledger=ALL_BUT_ONE,
    ),
    Fault(
        where=API,
        done="HTML for one ID",
        act=one_answer(lambda _: raw(b"<html>Bad gateway</html>", "text/html")),
        exit=1,
        says="UnreadableAnswer",
        ledger=ALL_BUT_ONE,
    ),
    Fault(
        where=API,
        done="503 and HTML for one ID",
        act=one_answer(lambda _: raw(b"<html>Bad gateway</html>", "text/html", status=503), calls=2),
        exit=1,
        says='"code": "503"',
        ledger=ALL_BUT_ONE,
    ),
    Fault(
        where=API,
        done="200 and no body for one ID",
        act=one_answer(lambda _: raw(b"")),
        exit=1,
        says="UnreadableAnswer",
        ledger=ALL_BUT_ONE,
    ),
    Fault(
        where=API,
        done="a list instead of an object",
        act=one_answer(lambda _: raw(b"[1, 2]")),
        exit=1,
        says="UnreadableAnswer",
        ledger=ALL_BUT_ONE,
    ),
    Fault(
        where=API,
        done="the answer to another ID",
        act=one_answer(lambda scene: scene.population.connection(2)),
        exit=1,
        says="UnreadableAnswer",
        ledger=ALL_BUT_ONE,
    ),
    Fault(
        where=API,
        done="the right answer under a wrong content type",
        act=one_answer(lambda scene: raw(right(scene), "text/plain")),
        ledger=ALL,
    ),
    Fault(
        where=API,
        done="the right answer, gzipped, though nobody asked for it",
        act=one_answer(lambda scene: raw(gzip.compress(right(scene)), headers=GZIPPED)),
        ledger=ALL,
    ),
    Fault(
        where=API,
        done="64 MB of body, gzipped to 64 KB",
        act=one_answer(lambda _: raw(gzip.compress(bytes(64_000_000)), headers=GZIPPED), calls=2),
        exit=1,
        says='"code": "ClientPayloadError"',
        ledger=ALL_BUT_ONE,
    ),
    Fault(
        where=API,
        done="10 MB of body",
        act=one_answer(lambda _: raw(b"{" + b" " * 10_000_000)),
        exit=1,
        says="UnreadableAnswer",
        ledger=ALL_BUT_ONE,
    ),
    Fault(
        where=API,
        done="an endless redirect: not followed, one call per attempt",
        act=one_answer(lambda _: raw(b"", status=307, headers={"Location": "/"}), calls=2),
        exit=1,
        says='"code": "307"',
        ledger=ALL_BUT_ONE,
    ),
    Fault(
        where=API,
        done="ValidationException for one ID",
        act=one_answer(
            lambda _: web.json_response({"__type": "ValidationException", "Message": "no"}, status=400)
        ),
        exit=1,
        says="ValidationException",
        ledger=ALL_BUT_ONE,
    ),
    Fault(
        where=API,
        done="its clock is 10 minutes ahead of the worker's",
        act=clock_is_off,
        exit=77,
        says="Partner Central does not let us in: InvalidSignatureException: Signature expired",
        ledger=NONE_SETTLED,
    ),
    Fault(
        where=API,
        done="credentials expire half-way",
        act=after(IDS // 2, "ExpiredTokenException", "The security token included in the request is expired"),
        exit=77,
        says="Partner Central does not let us in: ExpiredTokenException",
        ledger={WRITTEN: IDS // 2, RELEASED: None},
    ),
    Fault(
        where=API,
        done="access is denied half-way",
        act=after(IDS // 2, "AccessDeniedException", "no"),
        exit=77,
        says="Partner Central does not let us in: AccessDeniedException",
        ledger={WRITTEN: IDS // 2, RELEASED: None},
    ),
    Fault(
        where=POSTGRES,
        done="0.05 s more for each answer",
        act=database_trouble(Trouble(latency=0.05)),
        ledger=ALL,
    ),
    Fault(
        where=POSTGRES,
        done="slow drip: a byte per millisecond",
        act=database_trouble(Trouble(drip=0.001)),
        ledger=ALL,
    ),
    Fault(
        where=POSTGRES,
        done="all connections cut, twice",
        act=database_cuts,
        says="write_replayed",
        ledger=STORED,
    ),
    Fault(
        where=POSTGRES,
        done="3 connections cut in the middle of an answer",
        act=database_trouble(Trouble(cut_after=100, times=3), cuts=3),
        says="write_replayed",
        ledger=STORED,
    ),
    Fault(
        where=POSTGRES,
        done="3 answers truncated: the connection ends too soon",
        act=database_trouble(Trouble(cut_after=100, ends=True, times=3), cuts=3),
        says="write_replayed",
        ledger=STORED,
    ),
    Fault(
        where=POSTGRES,
        done="committed, but the answer to `COMMIT` is lost, 3 times",
        act=database_trouble(Trouble(cut_before=b"COMMIT\0", times=3), cuts=3),
        says="write_replayed",
        ledger=STORED,
    ),
    Fault(
        where=POSTGRES,
        done="refuses connections for a while",
        act=database_refuses_for_a_while,
        says="write_replayed",
        ledger=STORED,
    ),
    Fault(
        where=POSTGRES,
        done="half-open: silent from some moment on; `--max-runtime` is up",
        act=database_falls_silent,
        exit=75,
        says="the time limit of 3 s is up",
        ledger=REST_RELEASED,
    ),
    Fault(
        where=POSTGRES,
        done="crashes and restarts",
        act=server_restarts,
        ledger=STORED,
        own_server=True,
    ),
    Fault(
        where=POSTGRES,
        done="fails over: a standby in recovery, read-only, then promoted",
        act=server_recovers,
        says="write_replayed",
        ledger=STORED,
        own_server=True,
    ),
    Fault(
        where=POSTGRES,
        done="read-only for a while",
        act=role(READ_ONLY, back=WRITABLE),
        says="write_replayed",
        ledger=STORED,
    ),
    Fault(
        where=POSTGRES,
        done="read-only, and stays so; `--max-runtime` is up",
        act=role_that_stays(READ_ONLY, back=WRITABLE),
        exit=75,
        says="the time limit of 4 s is up",
        ledger=REST_RELEASED,
    ),
    Fault(
        where=POSTGRES,
        done="read-only from the start",
        act=role_from_the_start(READ_ONLY, back=WRITABLE),
        exit=75,
        says="not available now (ReadOnlySqlTransaction, 25006)",
        ledger=None,
    ),
    Fault(
        where=POSTGRES,
        done="no connections left, for a while",
        act=role("CONNECTION LIMIT 0", back="CONNECTION LIMIT -1"),
        says="write_replayed",
        ledger=STORED,
    ),
    Fault(
        where=POSTGRES,
        done="no connections left from the start",
        act=role_from_the_start("CONNECTION LIMIT 0", back="CONNECTION LIMIT -1"),
        exit=75,
        says="not available now",
        ledger=None,
    ),
    Fault(
        where=POSTGRES,
        done="statement timeout: a lock held by somebody else for a while",
        act=statement_times_out,
        says="write_replayed",
        ledger=ALL,
    ),
    Fault(
        where=POSTGRES,
        done="disk full for a while",
        act=disk_fills_up,
        says="write_replayed",
        ledger=ALL,
        own_server=True,
    ),
    Fault(
        where=QUEUE,
        done="5 connections cut in the middle of an answer",
        act=queue_trouble(Trouble(cut_after=60, times=5), cuts=5),
        ledger=AGAIN,
    ),
    Fault(
        where=QUEUE,
        done="answers 200, but has deleted none of a batch, 3 times",
        act=deletes_fail_in_part,
        says="delete_failed",
        ledger=AGAIN,
    ),
    Fault(
        where=QUEUE,
        done="refuses connections",
        act=queue_refuses,
        exit=75,
        says="no answer",
        ledger=None,
    ),
)
