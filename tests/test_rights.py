"""What a reader and a writer may do, tried as these roles: by logging in and doing it."""

import secrets
from collections.abc import Callable, Iterator

import psycopg
import pytest
from psycopg.sql import SQL, Identifier
from sqlalchemy import make_url

from syncer.partner_central.population import Population
from tests.conftest import Program, Queues, rows, served

# Every relation that has rows to be read, the server's own among them.
RELATIONS = """
    SELECT format('%I.%I', nspname, relname), nspname
    FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE relkind IN ('r', 'v', 'm', 'p', 'f') AND nspname NOT LIKE 'pg_toast%'
    ORDER BY 1
"""

OTHERS = """
    WITH ours AS (SELECT oid FROM pg_namespace WHERE nspname IN ('public', 'reporting'))
    SELECT (SELECT count(*) FROM pg_proc WHERE pronamespace IN (SELECT oid FROM ours))
         + (SELECT count(*) FROM pg_class WHERE relkind = 'S' AND relnamespace IN (SELECT oid FROM ours))
"""

Role = Callable[[str], tuple[str, str]]


@pytest.fixture
def role(database_url: str) -> Iterator[Role]:
    """Makes a role that may log in; its name, and the database's URL for it. The name is no easy one."""
    made = []
    with psycopg.connect(database_url) as connection:
        # As it is in a new database since Postgres 15.
        connection.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")

    def make(options: str = "") -> tuple[str, str]:
        name, password = f"bi\"{secrets.token_hex(6)}\";50%'x'", secrets.token_hex(6)
        with psycopg.connect(database_url, autocommit=True) as connection:
            statement = SQL("CREATE ROLE {} LOGIN PASSWORD {} " + options)
            connection.execute(statement.format(Identifier(name), password))
        made.append(name)
        return name, make_url(database_url).set(username=name, password=password).render_as_string(
            hide_password=False
        )

    yield make
    with psycopg.connect(database_url, autocommit=True) as connection:
        for name in made:
            connection.execute(SQL("DROP OWNED BY {}").format(Identifier(name)))
            connection.execute(SQL("DROP ROLE {}").format(Identifier(name)))


def readable(url: str) -> dict[str, str]:
    """What each relation holds, as text, of those that the URL's user can read."""
    texts = {}
    with psycopg.connect(url, autocommit=True) as connection:
        for relation, _ in connection.execute(RELATIONS.encode()).fetchall():
            try:
                with connection.cursor() as cursor, cursor.copy(
                    f"COPY (SELECT * FROM {relation}) TO STDOUT".encode()
                ) as copied:  # fmt: skip
                    texts[relation] = b"".join(copied).decode()
            except psycopg.Error:
                continue
    return texts


def everything(url: str) -> str:
    """All that the database holds, the planner's statistics included, in small letters."""
    return "\n".join(readable(url).values()).casefold()


def inviters(population: Population) -> set[str]:
    """The names and addresses of all who invited."""
    found = set()
    for identifier in population.identifiers():
        answer = population.get(identifier)
        assert answer is not None
        for detail in answer["ConnectionTypes"].values():
            found |= {detail["InviterName"], detail["InviterEmail"]}
    return found


async def test_a_reader_sees_the_views_and_no_inviter(
    program: Program, database_url: str, role: Role
) -> None:
    population = Population(400, seed=700)
    people = inviters(population)
    # Whoever exports IDs with more beside them has addresses in the failures too.
    (program.folder / "ids.txt").write_text("\n".join([*population.identifiers(), f"? {min(people)}"]))
    async with served(program, population):
        assert (await program("sync", "ids.txt")).exit == 1
    name, url = role("")
    done = await program("grant", "--reader", name, "--apply")
    assert done.exit == 0, done.stderr
    with psycopg.connect(database_url, autocommit=True) as connection:
        # Statistics hold values of the tables' too.
        connection.execute("ANALYZE")
        connection.execute("CREATE VIEW reporting.of_a_later_version AS SELECT count(*) FROM connection")
    texts = readable(url)
    views = {relation for relation, schema in rows(database_url, RELATIONS) if schema == "reporting"}
    ours = {
        relation for relation, schema in rows(database_url, RELATIONS) if schema in ("public", "reporting")
    }
    assert ours & {*texts} == views
    # There is nothing else that it could ask: no function of ours, no sequence.
    assert rows(database_url, OTHERS) == [(0,)]
    assert len(views) == 6
    assert all(texts[view] for view in views)
    told = "\n".join(texts.values())
    assert not [person for person in people if person in told]
    # The search would find them.
    stored = everything(database_url)
    assert not [person for person in people if person.casefold() not in stored]


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM reporting.connections",
        "UPDATE reporting.connections SET status = 'x'",
        "CREATE TABLE reporting.mine (id int)",
        "CREATE TABLE mine (id int)",
    ],
)
async def test_a_reader_changes_nothing(program: Program, role: Role, statement: str) -> None:
    name, url = role("")
    assert (await program("grant", "--reader", name, "--apply")).exit == 0
    with psycopg.connect(url) as connection, pytest.raises(psycopg.Error):
        connection.execute(statement.encode())


async def test_a_writer_syncs_works_and_checks_but_changes_no_schema(
    program: Program, queue: Queues, role: Role
) -> None:
    population = Population(60, seed=701)
    name, url = role("")
    done = await program("grant", "--writer", name, "--apply")
    assert done.exit == 0, done.stderr
    program.environment["DATABASE_URL"] = url
    queue.send(*population.identifiers())
    async with served(program, population):
        for command in (
            ("check",), ("sync",), ("work", "--drain"), ("sync", "--full"), ("status",),
            ("forget", "--email", max(inviters(population), key=lambda each: "@" in each)),
        ):  # fmt: skip
            done = await program(*command)
            assert done.exit == 0, done.stdout + done.stderr
    assert "erased of this person: connection_type 0" not in done.stdout
    assert rows(url, "SELECT count(*) FROM connection") == [(60,)]
    for statement in (
        "CREATE TABLE mine (id int)",
        "CREATE TABLE reporting.mine (id int)",
        "CREATE SCHEMA mine",
        "ALTER TABLE connection ADD mine int",
        "DROP VIEW reporting.connections",
        "TRUNCATE sync_run",
        "UPDATE alembic_version SET version_num = ''",
    ):
        with psycopg.connect(url) as connection, pytest.raises(psycopg.Error):
            connection.execute(statement.encode())


async def test_what_is_printed_is_what_would_be_done_and_changes_nothing(
    program: Program, database_url: str, role: Role
) -> None:
    (reader, as_reader), (writer, as_writer) = role(""), role("")
    printed = await program("grant", "--reader", reader, "--writer", writer)
    assert printed.exit == 0, printed.stderr
    for url in (as_reader, as_writer):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            rows(url, "SELECT * FROM reporting.connections")
    with psycopg.connect(database_url) as connection:
        connection.execute(printed.stdout.encode())
    assert rows(as_reader, "SELECT * FROM reporting.connections") == []
    assert rows(as_writer, "SELECT * FROM connection") == []
    # Again, now carried out: nothing is in its way.
    again = await program("grant", "--reader", reader, "--writer", writer, "--apply")
    assert (again.exit, again.stdout) == (0, printed.stdout), again.stderr


async def test_a_reader_that_could_read_the_tables_before_cannot_any_more(
    program: Program, database_url: str, role: Role
) -> None:
    name, url = role("")
    with psycopg.connect(database_url) as connection:
        connection.execute(SQL("GRANT SELECT ON ALL TABLES IN SCHEMA public TO {}").format(Identifier(name)))
    assert rows(url, "SELECT * FROM connection") == []
    assert (await program("grant", "--reader", name, "--apply")).exit == 0
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        rows(url, "SELECT * FROM connection")


# The second one is there since Postgres 14.
@pytest.mark.parametrize("options", ["SUPERUSER", "IN ROLE pg_read_all_data"])
async def test_a_reader_that_reads_everything_in_any_case_is_none(
    program: Program, database_url: str, role: Role, options: str
) -> None:
    known = "SELECT rolname FROM pg_roles WHERE rolname = 'pg_read_all_data'"
    if "pg_read_all_data" in options and not rows(database_url, known):
        pytest.skip("a server before 14")
    name, _ = role(options)
    done = await program("grant", "--reader", name, "--apply")
    assert done.exit == 78
    assert "would read connection, " in done.stderr.replace("alembic_version, ", "")
    assert len(done.stderr.splitlines()) == 1
    assert rows(database_url, "SELECT count(*) FROM pg_default_acl") == [(0,)]


async def test_a_writer_that_may_create_tables_is_none(
    program: Program, database_url: str, role: Role
) -> None:
    name, _ = role("")
    with psycopg.connect(database_url) as connection:
        connection.execute("GRANT CREATE ON SCHEMA public TO PUBLIC")
    done = await program("grant", "--writer", name, "--apply")
    assert done.exit == 78
    assert 'REVOKE CREATE ON SCHEMA "public" FROM PUBLIC' in done.stderr


async def test_a_role_that_is_not_there_has_to_be_created(program: Program) -> None:
    done = await program("grant", "--reader", 'no"body')
    assert (done.exit, done.stdout) == (78, "")
    assert 'there is no role no"body: create it first: CREATE ROLE "no""body" LOGIN PASSWORD' in done.stderr


@pytest.mark.parametrize("arguments", [(), ("--reader", "one", "--writer", "one")])
async def test_a_mistake_in_the_command_is_told(program: Program, arguments: tuple[str, ...]) -> None:
    assert (await program("grant", *arguments)).exit == 2


async def test_without_tables_there_is_nothing_to_grant(program: Program, empty_database_url: str) -> None:
    program.environment["DATABASE_URL"] = empty_database_url
    done = await program("grant", "--reader", "postgres")
    assert done.exit == 78
    assert "run `syncer migrate`" in done.stderr
