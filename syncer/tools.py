"""The commands around the job: migrate, check, grant, forget, simulate, demo.

What a command needs is imported when it runs: `syncer --help` should not wait for the SDK.
"""

from contextlib import ExitStack
from typing import Annotated

import typer

from syncer.exits import Exit
from syncer.launch import Refusal, database_at, run
from syncer.options import AccountId, Catalog, DatabaseUrl, DbAuth, QueueUrl
from syncer.settings import DatabaseAuth, RunSettings


def migrate(
    database_url: DatabaseUrl = None,
    db_auth: DbAuth = DatabaseAuth.PASSWORD,
    check: Annotated[bool, typer.Option("--check", help="Only tell whether a migration is due.")] = False,
) -> None:
    """Bring the database's schema to this version."""
    from syncer.store import schema

    with database_at(database_url, db_auth, migrated=False) as url:
        if check:
            wrong = schema.difference(run(schema.current(url)))
            if wrong:
                raise Refusal(Exit.NOT_SET_UP, wrong)
            typer.echo(f"The schema is current: version {schema.VERSION}.")
            return
        before, after = run(schema.migrate(url))
    if before == after:
        typer.echo(f"Nothing to do: the schema is current, version {after}.")
    else:
        typer.echo(f"The schema is now of version {after}; it was {before or 'not there'}.")


def check(
    context: typer.Context,
    database_url: DatabaseUrl = None,
    db_auth: DbAuth = DatabaseAuth.PASSWORD,
    account_id: AccountId = None,
    catalog: Catalog = "AWS",
    queue_url: QueueUrl = None,
) -> None:
    """Tell whether everything is there that a run needs: database, schema, credentials, API, queue."""
    import os

    from syncer.check import Finding, findings, settings
    from syncer.store.database import DatabaseError
    from syncer.store.embedded import EmbeddedUnavailable

    found = settings(os.environ, context)
    with ExitStack() as leaving:
        url = None
        try:
            url = leaving.enter_context(database_at(database_url, db_auth))
        except (Refusal, DatabaseError, EmbeddedUnavailable) as error:
            found.append(Finding("database", Exit.NOT_SET_UP, str(error)))
        found += run(findings(RunSettings(account_id=account_id, catalog=catalog), url, queue_url))
    for finding in found:
        typer.echo(f"{'ok    ' if finding.exit is Exit.OK else 'FAILED'} {finding.part}: {finding.message}")
    raise typer.Exit(max(finding.exit for finding in found))


def grant(
    reader: Annotated[
        str | None,
        typer.Option(
            metavar="ROLE", show_default=False, help="Is to read the schema reporting, and nothing else."
        ),
    ] = None,
    writer: Annotated[
        str | None,
        typer.Option(
            metavar="ROLE",
            show_default=False,
            help="Is to sync, work and check, but not to change the schema.",
        ),
    ] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Carry the statements out.")] = False,
    database_url: DatabaseUrl = None,
    db_auth: DbAuth = DatabaseAuth.PASSWORD,
) -> None:
    """Print, or carry out, the statements that give a role of the database its rights."""
    if not reader and not writer:
        raise Refusal(Exit.USAGE, "name a --reader, a --writer, or both")
    if reader == writer:
        raise Refusal(Exit.USAGE, "reader and writer are one role: a reader could read everything then")
    from syncer.store.rights import Grantees
    from syncer.store.rights import grant as rights

    with database_at(database_url, db_auth) as url:
        statements = run(rights(url, Grantees(reader or None, writer or None), apply=apply))
    for statement in statements:
        typer.echo(f"{statement};")


def forget(
    email: Annotated[
        str, typer.Option(metavar="ADDRESS", show_default=False, help="Of the person, as in inviter_email.")
    ],
    database_url: DatabaseUrl = None,
    db_auth: DbAuth = DatabaseAuth.PASSWORD,
) -> None:
    """Erase a person who invited from all tables, history and failures."""
    if "@" not in email:
        raise Refusal(Exit.USAGE, "--email takes the person's address: there is no @ in this")
    from syncer.store.forgetting import forget as erased

    with database_at(database_url, db_auth) as url:
        rows = run(erased(url, email))
    typer.echo("Rows erased of this person: " + ", ".join(f"{table} {rows[table]:,}" for table in rows))
    typer.echo(
        "AWS still tells of them: a connection of theirs brings them back when it is fetched again, because "
        "it changed or by sync --full. sync and work with --no-personal-data store nobody."
    )


def simulate(
    connections: Annotated[int, typer.Option(min=0, help="Size of the population.")] = 1000,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 8700,
    host: Annotated[str, typer.Option(help="Where to listen. Nobody is authenticated: keep it local.")] = (
        "127.0.0.1"
    ),
    catalog: Catalog = "AWS",
    rate: Annotated[
        float | None,
        typer.Option(min=0.001, show_default=False, help="Quota in calls/s, per operation. Default: none."),
    ] = None,
    burst: Annotated[
        float | None,
        typer.Option(
            min=1, show_default=False, help="Calls a rested quota allows at once. Default: 1 s of it."
        ),
    ] = None,
    latency: Annotated[float, typer.Option(min=0, help="Seconds that each answer takes.")] = 0.0,
    jitter: Annotated[float, typer.Option(min=0, help="Up to so many seconds more.")] = 0.0,
    error_rate: Annotated[
        float, typer.Option(min=0, max=1, help="Share of calls that end in InternalServerException.")
    ] = 0.0,
    cut_rate: Annotated[
        float, typer.Option(min=0, max=1, help="Share of calls whose connection is cut.")
    ] = 0.0,
    unknown_rate: Annotated[
        float, typer.Option(min=0, max=1, help="Share of connections that are not there.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="Another seed, another population.")] = 2026,
    ids: Annotated[
        bool, typer.Option("--ids", help="Print the IDs of the population instead of serving it.")
    ] = False,
) -> None:
    """Serve a local Partner Central on loopback, to try a deployment or its load."""
    from syncer.demo import environment
    from syncer.partner_central.population import Population
    from syncer.partner_central.simulator import Faults, simulate

    population = Population(connections, seed, catalog)
    if ids:
        for identifier in population.identifiers():
            typer.echo(identifier)
        return
    faults = Faults(
        rate=rate,
        burst=burst,
        latency=latency,
        jitter=jitter,
        error_rate=error_rate,
        cut_rate=cut_rate,
        unknown_rate=unknown_rate,
        seed=seed,
    )

    def announce(url: str) -> None:
        typer.echo(f"# {connections:,} connections at {url}, until Ctrl-C. In another shell:")
        for name, value in environment(url).items():
            typer.echo(f"export {name}={value}")

    try:
        run(simulate(population, faults, host, port, announce))
    except OSError as error:
        raise Refusal(Exit.USAGE, f"cannot listen on {host}:{port}: {error.strerror or error}") from None
    except KeyboardInterrupt:
        raise typer.Exit(Exit.INTERRUPTED) from None


def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave the database running at the end.")] = False,
) -> None:
    """Run the main job with nothing to set up: embedded Postgres, the simulator, 1,000 connections."""
    from syncer.demo import demonstrate
    from syncer.store.embedded import embedded
    from syncer.store.schema import migrate

    with embedded(keep=keep) as database:
        run(migrate(database.url))
        result = run(demonstrate(database.url, f"{database.psql} '{database.url}'", keep=keep))
    raise typer.Exit(result.exit)
