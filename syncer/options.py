"""The options that several commands share: flag, environment variable, help."""

from typing import Annotated

import typer

from syncer.settings import DatabaseAuth

DATABASE_URL = ["SYNCER_DATABASE_URL", "DATABASE_URL"]

DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        envvar=DATABASE_URL,
        show_envvar=True,
        show_default=False,
        help="Postgres, as postgresql://user@host/database. Default: the embedded one, if it is installed.",
    ),
]
DbAuth = Annotated[
    DatabaseAuth,
    typer.Option(
        "--db-auth",
        envvar="SYNCER_DB_AUTH",
        help="How to log in to Postgres: by the URL's password, or for Amazon RDS by a token of IAM's.",
    ),
]
AccountId = Annotated[
    str | None,
    typer.Option(
        envvar="SYNCER_ACCOUNT_ID",
        show_default=False,
        help="The AWS account whose view this is, 12 digits. Default: STS tells.",
    ),
]
Catalog = Annotated[
    str, typer.Option(envvar="SYNCER_CATALOG", help="Partner Central's catalog: AWS or Sandbox.")
]
Concurrency = Annotated[
    int, typer.Option(envvar="SYNCER_CONCURRENCY", min=1, max=1000, help="Calls in flight, at most.")
]
BatchSize = Annotated[
    int,
    typer.Option(envvar="SYNCER_BATCH_SIZE", min=1, max=10_000, help="Connections per transaction, at most."),
]
MaxAttempts = Annotated[
    int,
    typer.Option(
        envvar="SYNCER_MAX_ATTEMPTS",
        min=1,
        max=100,
        help="Calls per ID that may end in a transient error. Throttled calls do not count.",
    ),
]
MaxRuntime = Annotated[
    float | None,
    typer.Option(
        envvar="SYNCER_MAX_RUNTIME",
        min=0,
        metavar="SECONDS",
        show_default=False,
        help="Stop in order after so many seconds, with exit code 75. Default: no limit.",
    ),
]
MaxRate = Annotated[
    float | None,
    typer.Option(
        envvar="SYNCER_MAX_RATE",
        min=0.1,
        metavar="CALLS/S",
        show_default=False,
        help="Never more calls per second, per operation. Default: as many as the quota allows.",
    ),
]
AllowFailures = Annotated[
    bool,
    typer.Option(
        "--allow-failures", envvar="SYNCER_ALLOW_FAILURES", help="Exit with 0 although some IDs failed."
    ),
]
Json = Annotated[
    bool, typer.Option("--json", envvar="SYNCER_JSON", help="Print the result as one JSON object.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", envvar="SYNCER_DRY_RUN", help="Show what would change; write nothing.")
]
AllowMassRemoval = Annotated[
    bool,
    typer.Option(
        "--allow-mass-removal",
        envvar="SYNCER_ALLOW_MASS_REMOVAL",
        help="Mark as removed whatever the API no longer has, even if that is a tenth of all.",
    ),
]
NoPersonalData = Annotated[
    bool,
    typer.Option(
        "--no-personal-data",
        envvar="SYNCER_NO_PERSONAL_DATA",
        help="Never store who invited; of what is fetched, erase who is stored, the history too.",
    ),
]
QueueUrl = Annotated[
    str | None,
    typer.Option(
        envvar="SYNCER_QUEUE_URL",
        show_default=False,
        help="The SQS queue, such as https://sqs.us-east-1.amazonaws.com/123456789012/connections.",
    ),
]
