"""The commands: options → settings → one call → exit code.

What a command needs is imported when it runs: `syncer --help` should not wait for the SDK.
"""

import gc
import os
import re
import signal
import sys
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from syncer import __version__, tools
from syncer.exits import Exit
from syncer.launch import Refusal, database_at, run, run_job
from syncer.options import (
    AccountId,
    AllowFailures,
    AllowMassRemoval,
    BatchSize,
    Catalog,
    Concurrency,
    DatabaseUrl,
    DbAuth,
    DryRun,
    Json,
    MaxAttempts,
    MaxRate,
    MaxRuntime,
    NoPersonalData,
    QueueUrl,
)
from syncer.settings import DatabaseAuth, Input, RunSettings

app = typer.Typer(
    name="syncer",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # Plain help: the decorated one imports a Markdown parser and doubles the start-up.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """Keep AWS Partner Central connections in Postgres: complete, fresh and within the request quota."""
    if version:
        typer.echo(f"syncer {__version__}")
        raise typer.Exit


@app.command()
def sync(
    context: typer.Context,
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILE",
            show_default=False,
            help="Files with connection IDs or ARNs: text, CSV with a header, JSON Lines, each also .gz; "
            "- is stdin. Without any: what the API lists.",
        ),
    ] = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="The IDs that are recorded as failures, once more.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where the interrupted run of the same files left off.")
    ] = False,
    full: Annotated[
        bool,
        typer.Option("--full", envvar="SYNCER_FULL", help="Fetch all that is listed, changed or not."),
    ] = False,
    full_every: Annotated[
        str | None,
        typer.Option(
            envvar="SYNCER_FULL_EVERY",
            metavar="AGE",
            show_default=False,
            help="Do so when the last such run is older than, say, 7d or 12h.",
        ),
    ] = None,
    dry_run: DryRun = False,
    allow_mass_removal: AllowMassRemoval = False,
    no_personal_data: NoPersonalData = False,
    assume_role: Annotated[
        list[str] | None,
        typer.Option(
            "--assume-role",
            envvar="SYNCER_ASSUME_ROLE",
            metavar="ARN",
            show_default=False,
            help="Sync the account of this role, side by side with others: may be repeated; "
            "@FILE names a file of ARNs.",
        ),
    ] = None,
    external_id: Annotated[
        str | None,
        typer.Option(
            envvar="SYNCER_EXTERNAL_ID", show_default=False, help="The external ID that those roles ask for."
        ),
    ] = None,
    database_url: DatabaseUrl = None,
    db_auth: DbAuth = DatabaseAuth.PASSWORD,
    account_id: AccountId = None,
    catalog: Catalog = "AWS",
    concurrency: Concurrency = 32,
    max_rate: MaxRate = None,
    batch_size: BatchSize = 500,
    max_attempts: MaxAttempts = 6,
    max_runtime: MaxRuntime = None,
    allow_failures: AllowFailures = False,
    json: Json = False,
) -> None:
    """Fetch connections, and write what has changed.

    Without files: what is listed as new or changed, or no longer listed. This is the scheduled job.
    """
    if files and (failed or full or full_every):
        raise Refusal(Exit.USAGE, "--failed, --full and --full-every are for a sync without files")
    if failed and (full or full_every):
        raise Refusal(
            Exit.USAGE, "--failed fetches the recorded failures, --full all that is listed: name one"
        )
    if assume_role and account_id:
        raise Refusal(
            Exit.USAGE, "with --assume-role the roles' ARNs tell the accounts: leave --account-id away"
        )
    if assume_role and files and "-" in files:
        raise Refusal(Exit.USAGE, "stdin can be read for one account only: put the IDs into a file")
    if resume and not files:
        raise Refusal(Exit.USAGE, "--resume goes on with files: name them")
    settings = RunSettings(
        input=Input.FILE if files else Input.FAILURES if failed else Input.LISTING,
        paths=tuple(files or ()),
        resume=resume,
        full=full,
        full_every=None if full_every is None else _age(full_every),
        assume_roles=_roles(assume_role or []),
        external_id=external_id,
        account_id=account_id,
        catalog=catalog,
        concurrency=concurrency,
        max_rate=max_rate,
        batch_size=batch_size,
        max_attempts=max_attempts,
        max_runtime=max_runtime,
        allow_failures=allow_failures,
        allow_mass_removal=allow_mass_removal,
        dry_run=dry_run,
        personal_data=not no_personal_data,
    )
    from rich.console import Console

    from syncer import report
    from syncer.run import sync as sync_all

    with database_at(database_url, db_auth) as url:
        results = run_job(sync_all(settings, url), context)
    if json:
        typer.echo(report.as_json(results))
    for result in results:
        if not json:
            report.print_table(result, Console())
        if result.message:
            account = f"account {result.account_id}: " if len(results) > 1 else ""
            typer.echo(f"syncer: {account}{result.message}", err=True)
    raise typer.Exit(report.worst(results).exit)


@app.command()
def work(
    context: typer.Context,
    queue_url: Annotated[
        str | None,
        typer.Argument(
            metavar="QUEUE_URL",
            envvar="SYNCER_QUEUE_URL",
            show_default=False,
            help="The SQS queue, such as https://sqs.us-east-1.amazonaws.com/123456789012/connections.",
        ),
    ] = None,
    drain: Annotated[
        bool, typer.Option("--drain", envvar="SYNCER_DRAIN", help="End when the queue is empty.")
    ] = False,
    invalid_to: Annotated[
        str,
        typer.Option(
            envvar="SYNCER_INVALID_TO",
            metavar="delete|redrive",
            help="A message without a connection ID is recorded, then deleted, or left to the queue's "
            "redrive policy.",
        ),
    ] = "delete",
    health_port: Annotated[
        int | None,
        typer.Option(
            envvar="SYNCER_HEALTH_PORT",
            min=0,
            max=65535,
            show_default=False,
            help="Answer /healthz there: 200 while there is progress, or nothing to do.",
        ),
    ] = None,
    health_host: Annotated[
        str, typer.Option(envvar="SYNCER_HEALTH_HOST", help="Where to listen for that.")
    ] = "127.0.0.1",
    dry_run: DryRun = False,
    allow_mass_removal: AllowMassRemoval = False,
    no_personal_data: NoPersonalData = False,
    database_url: DatabaseUrl = None,
    db_auth: DbAuth = DatabaseAuth.PASSWORD,
    account_id: AccountId = None,
    catalog: Catalog = "AWS",
    concurrency: Concurrency = 32,
    max_rate: MaxRate = None,
    batch_size: BatchSize = 500,
    max_attempts: MaxAttempts = 6,
    max_runtime: MaxRuntime = None,
    allow_failures: AllowFailures = False,
    json: Json = False,
) -> None:
    """Fetch the connections that a queue's messages name, until stopped."""
    if invalid_to not in ("delete", "redrive"):
        raise Refusal(Exit.USAGE, f"--invalid-to {invalid_to}: it is delete or redrive")
    from rich.console import Console

    from syncer import report
    from syncer.sources.holding import InvalidTo
    from syncer.work import WorkSettings
    from syncer.work import work as work_on

    settings = WorkSettings(
        run=RunSettings(
            input=Input.QUEUE,
            account_id=account_id,
            catalog=catalog,
            concurrency=concurrency,
            max_rate=max_rate,
            batch_size=batch_size,
            max_attempts=max_attempts,
            max_runtime=max_runtime,
            allow_failures=allow_failures,
            allow_mass_removal=allow_mass_removal,
            dry_run=dry_run,
            personal_data=not no_personal_data,
        ),
        queue_url=_queue(queue_url),
        drain=drain,
        invalid_to=InvalidTo(invalid_to),
        health_host=health_host,
        health_port=health_port,
    )
    with database_at(database_url, db_auth) as url:
        result = run_job(work_on(settings, url), context)
    if json:
        typer.echo(report.as_json([result]))
    else:
        report.print_table(result, Console())
    if result.message:
        typer.echo(f"syncer: {result.message}", err=True)
    raise typer.Exit(result.exit)


@app.command()
def enqueue(
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILE",
            show_default=False,
            help="Files with connection IDs or ARNs, as for sync; - is stdin.",
        ),
    ] = None,
    queue_url: QueueUrl = None,
    discover: Annotated[
        bool,
        typer.Option(
            "--discover", help="What is listed as new or changed, or no longer listed, as for sync."
        ),
    ] = False,
    full: Annotated[
        bool, typer.Option("--full", help="With --discover: all that is listed, changed or not.")
    ] = False,
    database_url: DatabaseUrl = None,
    db_auth: DbAuth = DatabaseAuth.PASSWORD,
    account_id: AccountId = None,
    catalog: Catalog = "AWS",
    max_rate: MaxRate = None,
    max_attempts: MaxAttempts = 6,
    json: Json = False,
) -> None:
    """Put connection IDs on a queue, for workers to fetch."""
    if bool(files) == discover:
        raise Refusal(Exit.USAGE, "name files, or --discover what to enqueue: one of them")
    if full and not discover:
        raise Refusal(Exit.USAGE, "--full is for --discover")
    from syncer.enqueue import EnqueueSettings
    from syncer.enqueue import enqueue as put

    settings = EnqueueSettings(
        queue_url=_queue(queue_url),
        paths=tuple(files or ()),
        full=full,
        account_id=account_id,
        catalog=catalog,
        max_attempts=max_attempts,
        max_rate=max_rate,
    )
    with database_at(database_url, db_auth) if discover else nullcontext("") as url:
        sent = run(put(settings, url))
    if json:
        typer.echo(sent.as_json())
    else:
        typer.echo(
            f"{sent.sent:,} of {sent.read:,} sent to {sent.queue_url}; {sent.skipped:,} need no fetching, "
            f"{sent.invalid:,} are no connection IDs, {sent.unsent:,} not sent"
        )
    if sent.message:
        typer.echo(f"syncer: {sent.message}", err=True)
    raise typer.Exit(sent.exit)


@app.command()
def status(
    database_url: DatabaseUrl = None,
    db_auth: DbAuth = DatabaseAuth.PASSWORD,
    max_age: Annotated[
        str | None,
        typer.Option(
            envvar="SYNCER_MAX_AGE",
            metavar="AGE",
            show_default=False,
            help="Exit with 1 when the last complete sync is older than, say, 26h.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Tell how things are: last runs, freshness, failures, learned rates."""
    limit = None if max_age is None else _age(max_age)
    from rich.console import Console

    from syncer import status as telling

    with database_at(database_url, db_auth) as url:
        found = run(telling.status(url))
    if json:
        typer.echo(telling.as_json(found))
    else:
        telling.print_tables(found, Console())
    late = [] if limit is None else telling.too_old(found, limit)
    for each in late:
        typer.echo(f"syncer: {telling.complaint(each, limit or timedelta())}", err=True)
    if limit is not None and not found.freshness:
        raise Refusal(Exit.INCOMPLETE, "there was no run yet")
    raise typer.Exit(Exit.INCOMPLETE if late else Exit.OK)


def _queue(url: str | None) -> str:
    if not url:
        raise Refusal(Exit.NOT_SET_UP, "which queue? Name its URL, or set SYNCER_QUEUE_URL")
    return url


def _roles(given: list[str]) -> tuple[str, ...]:
    """The ARNs in `given`, those in files that it names with @ among them; each once."""
    arns: list[str] = []
    for each in given:
        try:
            lines = Path(each[1:]).read_text().splitlines() if each.startswith("@") else [each]
        except (OSError, UnicodeDecodeError) as error:
            raise Refusal(Exit.USAGE, f"{each[1:]} cannot be read: {error}") from None
        arns += [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    for arn in arns:
        if not re.fullmatch(r"arn:[a-z0-9-]+:iam::[0-9]{12}:role/\S+", arn):
            raise Refusal(
                Exit.USAGE, f"{arn} is no ARN of a role, such as arn:aws:iam::123456789012:role/syncer"
            )
    accounts = [arn.split(":")[4] for arn in dict.fromkeys(arns)]
    if len(set(accounts)) < len(accounts):
        raise Refusal(Exit.USAGE, "two of the roles are of one account: name one role per account")
    return tuple(dict.fromkeys(arns))


def _age(text: str) -> timedelta:
    """`text` such as ``7d``, ``26h``, ``30m`` or ``90s``, as a duration."""
    units = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds"}
    number, unit = text[:-1], text[-1:]
    if unit not in units or not number.isdecimal():
        raise Refusal(Exit.USAGE, f"{text} is no duration such as 7d, 26h, 30m or 90s")
    return timedelta(**{units[unit]: int(number)})


for tool in (tools.migrate, tools.check, tools.grant, tools.forget, tools.simulate, tools.demo):
    app.command()(tool)


def main(argv: list[str] | None = None) -> None:
    """The program. A user's mistake ends in one line on stderr, never in a traceback."""
    # What a run does in order, the other commands do at once. Without this they would not hear of it in a
    # container: the kernel keeps its default action from PID 1.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(Exit.TERMINATED))
    # Looking for garbage in what is being imported takes a fifth of the start; `launch.run` looks again.
    gc.disable()
    try:
        app(args=argv, standalone_mode=True)
    except Refusal as refusal:
        _end(refusal.exit_code, str(refusal))
    except Exception as error:  # noqa: BLE001  (the last resort: whatever it is gets an exit code)
        from syncer.endings import exit_for

        exit_code = exit_for(error)
        if exit_code is None:
            # A mistake of ours. Not 1, which says that the run came to its end.
            sys.excepthook(*sys.exc_info())
            sys.exit(Exit.UNSOUND)
        _end(exit_code, str(error))


def _end(exit_code: Exit, message: str) -> None:
    typer.echo(f"syncer: {message}", err=True)
    sys.exit(exit_code)


if __name__ == "__main__":
    main()
