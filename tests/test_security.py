"""What must not get out, and what must not get in: secrets, open ports, SQL from data, input without end."""

import ast
import asyncio
import os
import socket
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from sqlalchemy import make_url

from syncer.partner_central.population import Population
from syncer.partner_central.simulator import GET, Faults
from syncer.sources.formats import LONGEST_LINE
from syncer.sources.messages import LONGEST_BODY
from syncer.store.embedded import embedded
from syncer.wire import LONGEST_ANSWER
from tests.conftest import Finished, Program, Queues, finished, own_folder, rows, served, until
from tests.faults.proxy import Trouble
from tests.faults.scene import PASSWORD, Scene, scene
from tests.test_readme import section

SOURCES = Path(__file__).parent.parent / "syncer"
KEY, TOKEN = "geheimer/schluessel+0123456789", "geheimes-token-0123456789"
SECRETS = (PASSWORD, KEY, TOKEN)


# --- secrets ---


@pytest.fixture
async def trial(program: Program, database_url: str) -> Any:
    async with scene(program, database_url, seed=900) as each:
        program.environment |= {
            "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE", "AWS_SECRET_ACCESS_KEY": KEY, "AWS_SESSION_TOKEN": TOKEN,
        }  # fmt: skip
        yield each


async def wrong_signature(scene: Scene) -> Finished:
    """As AWS words it: with the request, and the session token among its headers."""
    message = (
        "The request signature we calculated does not match the signature you provided.\n\n"
        f"The Canonical String for this request should have been\n'POST\n/\n\nx-amz-security-token:{TOKEN}\n"
    )
    body = {"__type": "InvalidSignatureException", "message": message}
    scene.simulator.answer = lambda *_: web.json_response(body, status=400)
    return await watched(scene, "sync", "ids.txt")


async def refused_items(scene: Scene) -> Finished:
    body = {"__type": "ValidationException", "message": f"no\n\nx-amz-security-token:{TOKEN}"}
    scene.simulator.answer = lambda *_: web.json_response(body, status=400)
    return await watched(scene, "sync", "ids.txt")


async def database_refuses(scene: Scene) -> Finished:
    await scene.database.refuse()
    return await watched(scene, "sync", "ids.txt")


async def database_is_lost(scene: Scene) -> Finished:
    scene.simulator.faults = Faults(latency=0.1)
    scene.api.trouble = Trouble(latency=0.05)
    running = asyncio.create_task(
        watched(scene, "sync", "ids.txt", "--batch-size", "5", "--max-runtime", "3")
    )
    await until(lambda: rows(scene.url, "SELECT count(*) > 0 FROM connection") == [(True,)])
    await scene.database.refuse()
    return await running


async def wrong_url(scene: Scene) -> Finished:
    url = f"postgresql://somebody:{PASSWORD}@127.0.0.1:port/x"
    scene.program.environment["DATABASE_URL"] = url
    return await watched(scene, "sync", "ids.txt")


async def wrong_database(scene: Scene) -> Finished:
    url = make_url(scene.program.environment["DATABASE_URL"]).set(database="nobody_made_this")
    scene.program.environment["DATABASE_URL"] = url.render_as_string(hide_password=False)
    return await watched(scene, "sync", "ids.txt")


async def no_queue(scene: Scene) -> Finished:
    endpoint = f"http://127.0.0.1:{scene.api.port}"
    scene.program.environment["AWS_ENDPOINT_URL_SQS"] = endpoint
    return await watched(scene, "work", f"{endpoint}/123456789012/nowhere")


async def watched(scene: Scene, *arguments: str) -> Finished:
    """Run the program; fail at a secret in what any user of the machine can list of its processes."""
    process = await scene.program.start(*arguments, "--max-attempts", "1")
    ending = asyncio.create_task(finished(process))
    while not ending.done():
        assert not [secret for secret in SECRETS for line in listed(process.pid) if secret in line]
        await asyncio.wait([ending], timeout=0.1)
    return ending.result()


def listed(pid: int) -> Iterator[str]:
    """The command lines of the process, and of those that it started."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if pid in (int(folder.name), parent):
                yield (folder / "cmdline").read_text()
        except (OSError, IndexError):
            pass  # it has ended


@pytest.mark.parametrize(
    ("fail", "exit_code"),
    [
        (wrong_signature, 77),
        (refused_items, 1),
        (database_refuses, 75),
        (database_is_lost, 75),
        (wrong_url, 78),
        (wrong_database, 78),
        (no_queue, 75),
    ],
)
async def test_no_secret_gets_out(
    trial: Scene, fail: Callable[[Scene], Awaitable[Finished]], exit_code: int
) -> None:
    done = await fail(trial)
    assert done.exit == exit_code, done.stderr
    assert "Traceback" not in done.stderr
    await trial.lift()
    tables = ("sync_run", "sync_failure", "request_rate")
    stored = str([rows(trial.url, f"SELECT * FROM {table}") for table in tables])
    assert not [secret for secret in SECRETS if secret in done.stdout + done.stderr + stored]


# --- ports ---


def listening(pid: int) -> set[str]:
    """The addresses at which the process listens, as the kernel writes them."""
    sockets = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            sockets.add(descriptor.readlink().name)
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "0A" and f"socket:[{inode}]" in sockets:
                found.add(local.partition(":")[0])
    return found


LOOPBACK = {"0100007F"}


async def test_the_simulator_is_for_this_machine_alone(program: Program) -> None:
    process = await program.start("simulate", "--port", "0")
    assert process.stdout is not None
    await process.stdout.readline()
    assert listening(process.pid) == LOOPBACK
    process.terminate()
    await process.wait()


@pytest.mark.usefixtures("queue")
async def test_health_is_for_this_machine_alone(program: Program) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    async with served(program, Population(1, seed=901)):
        process = await program.start("work", "--health-port", port)
        await until(lambda: listening(process.pid) != set())
        assert listening(process.pid) == LOOPBACK
        process.terminate()
        await finished(process)


@pytest.mark.usefixtures("queue")
async def test_a_worker_that_nobody_asks_listens_nowhere(program: Program, database_url: str) -> None:
    async with served(program, Population(1, seed=902)):
        process = await program.start("work")
        await until(lambda: rows(database_url, "SELECT count(*) FROM sync_run") == [(1,)])
        assert listening(process.pid) == set()
        process.terminate()
        await finished(process)


# --- files ---


def test_the_embedded_database_is_its_users_alone() -> None:
    with own_folder() as above, embedded(above) as server:
        data = server.folder / "data"
        open_to_others = [
            path for path in data.rglob("*") if path.lstat().st_mode & 0o077 and not path.is_socket()
        ]
        assert not open_to_others
        if os.geteuid() == 0:
            ls = ["ls", str(data)]
            other = subprocess.run(ls, user=1, group=1, extra_groups=[], check=False, capture_output=True)
            assert other.returncode
            assert b"ermission denied" in other.stderr


# --- SQL ---

# Where SQL is put together: at import, from the module's own constants, or with a table's name.
ASSEMBLED = {
    ("store/statements.py", "_given"),
    ("store/statements.py", "_insert"),
    ("store/statements.py", "_update"),
    ("demo.py", "_show"),
}
SQL = ("SELECT ", "INSERT ", "UPDATE ", "DELETE ", "FROM ", "CREATE ", "ALTER ", "DROP ", "GRANT ", "PRAGMA ")


def assembled() -> Iterator[tuple[str, str]]:
    """Module and function of each SQL text in which something other than a constant is put."""
    for path in sorted(SOURCES.rglob("*.py")):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            for child in ast.iter_child_nodes(node):
                child.parent = node  # type: ignore[attr-defined]  # a note for the way back up
        for node in ast.walk(tree):
            text, parts = _parts(node)
            if any(word in text for word in SQL) and not all(map(_is_constant, parts)):
                yield str(path.relative_to(SOURCES)), _function(node)


def _parts(node: ast.AST) -> tuple[str, list[ast.expr]]:
    """The constant text in an expression that puts text together, and what is put in."""
    match node:
        case ast.JoinedStr(values):
            inserted = [each.value for each in values if isinstance(each, ast.FormattedValue)]
            return "".join(str(each.value) for each in values if isinstance(each, ast.Constant)), inserted
        case ast.BinOp(ast.Constant(str(text)), ast.Add() | ast.Mod(), right):
            return text, [right]
        case ast.Call(ast.Attribute(ast.Constant(str(text)), "format"), arguments, keywords):
            return text, [*arguments, *(keyword.value for keyword in keywords)]
    return "", []


def _is_constant(part: ast.expr) -> bool:
    return isinstance(part, ast.Constant) or (isinstance(part, ast.Name) and part.id.isupper())


def _function(node: ast.AST) -> str:
    while not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Module):
        node = node.parent  # type: ignore[attr-defined]  # see above
    return "" if isinstance(node, ast.Module) else node.name


def test_sql_has_values_as_parameters_only() -> None:
    assert set(assembled()) <= ASSEMBLED


def test_what_assembles_statements_is_called_at_import_only() -> None:
    private = {function for module, function in ASSEMBLED if module == "store/statements.py"}
    for path in SOURCES.rglob("*.py"):
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) and function.name not in private:
                called = {each.id for each in ast.walk(function) if isinstance(each, ast.Name)}
                called |= {each.attr for each in ast.walk(function) if isinstance(each, ast.Attribute)}
                assert not called & {"_insert", "_update"}, (path, function.name)


# --- limits ---


async def test_input_without_end_spoils_its_own_item_only(program: Program, database_url: str) -> None:
    population = Population(2, seed=903)
    first, second = (f'"{each}"' for each in population.identifiers())
    deep = "[" * (LONGEST_LINE - 1)
    long = '"' + "x" * 20 * LONGEST_LINE + '"'
    (program.folder / "ids.jsonl").write_text(f"{first}\n{deep}\n{long}\n{second}\n")
    async with served(program, population):
        done = await program("sync", "ids.jsonl", "--json")
    assert (done.exit, done.result["invalid"], done.result["written"]) == (1, 2, 2), done.stderr
    assert (
        max(len(identifier) for (identifier,) in rows(database_url, "SELECT identifier FROM sync_failure"))
        < 300
    )


async def test_messages_without_end_are_recorded_and_deleted(
    program: Program, database_url: str, queue: Queues
) -> None:
    population = Population(1, seed=904)
    identifier = population.identifier(0)
    queue.send(identifier)
    queue.send('{"id": "' + identifier + '", "more": "' + "x" * LONGEST_BODY + '"}')
    queue.send("[" * 100_000)
    queue.send("[" + ",".join([f'"{identifier}"'] * 101) + "]")
    async with served(program, population):
        done = await program("work", "--drain", "--json")
    assert (done.exit, done.result["invalid"], done.result["written"]) == (1, 3, 1), done.stderr
    assert (queue.left(), queue.left(queue.dead_url)) == (0, 0)
    told = " ".join(message for (message,) in rows(database_url, "SELECT message FROM sync_failure"))
    assert f"{LONGEST_BODY:,} are allowed" in told


@pytest.mark.parametrize(
    "body", [b"[" * 1_000_000, b'{"a":' * 1_000_000, b'{"Id": "' + b"x" * (LONGEST_ANSWER + 1)]
)
async def test_an_answer_without_end_fails_its_item_only(program: Program, body: bytes) -> None:
    population = Population(3, seed=905)
    bad = population.identifier(1)
    (program.folder / "ids.txt").write_text("\n".join(population.identifiers()))

    def answer(operation: str, request: dict[str, Any]) -> web.Response | None:
        return web.Response(body=body) if operation == GET and request["Identifier"] == bad else None

    async with served(program, population, answer=answer):
        done = await program("sync", "ids.txt", "--json", "--max-attempts", "1")
    assert (done.exit, done.result["failed"], done.result["written"]) == (1, 1, 2), done.stderr


def test_readme_names_the_limits() -> None:
    named = section("Security")
    for limit in (
        f"{LONGEST_LINE // 1024} KiB",
        f"{LONGEST_BODY // 1024} KiB",
        f"{LONGEST_ANSWER // 2**20} MiB",
    ):
        assert limit in named
