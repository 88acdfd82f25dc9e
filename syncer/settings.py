"""A run's settings, as values. Flag over environment over default: the command line reads them all."""

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum


class Input(StrEnum):
    """Where a run's items come from, as `sync_run.source` has it."""

    FILE = "file"
    LISTING = "listing"
    FAILURES = "failures"
    QUEUE = "queue"


class DatabaseAuth(StrEnum):
    """How to log in to the database: with the URL's password, or with a token that IAM signs."""

    PASSWORD = "password"  # noqa: S105  (it is a word)
    IAM = "iam"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """How one run goes about its work.

    paths: the files, if the input is files; "-" is stdin. resume: go on from the interrupted run of the same.
    full, full_every: fetch all that is listed, always or when the last such run is older.
    assume_roles: a role's ARN per account to sync, side by side; empty: the caller's own account.
    external_id: what those roles ask for. account_id: None: STS tells, or the role's ARN.
    concurrency: calls in flight, at most. batch_size: connections per transaction.
    max_attempts: calls per item that may end in a transient error; throttled ones do not count.
    max_runtime: seconds, or None: as long as it takes.
    max_rate: calls/s never exceeded, per operation; None: as the quota allows.
    allow_failures: exit with 0 in spite of them. allow_mass_removal: remove as many as the API lacks.
    dry_run: fetch and show what would change; write nothing.
    personal_data: store who invited; if not, erase it from whatever is fetched.
    """

    input: Input = Input.LISTING
    paths: tuple[str, ...] = ()
    resume: bool = False
    full: bool = False
    full_every: timedelta | None = None
    assume_roles: tuple[str, ...] = ()
    external_id: str | None = None
    account_id: str | None = None
    catalog: str = "AWS"
    concurrency: int = 32
    batch_size: int = 500
    max_attempts: int = 6
    max_rate: float | None = None
    max_runtime: float | None = None
    allow_failures: bool = False
    allow_mass_removal: bool = False
    dry_run: bool = False
    personal_data: bool = True
