"""A run's settings, as values. Flag over environment over default: the command line reads them all."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """How one run goes about its work.

    account_id: None: STS tells.
    concurrency: calls in flight, at most. batch_size: connections per transaction.
    max_attempts: calls per item that may end in a transient error; throttled ones do not count.
    max_runtime: seconds, or None: as long as it takes.
    """

    account_id: str | None = None
    catalog: str = "AWS"
    concurrency: int = 32
    batch_size: int = 500
    max_attempts: int = 6
    max_runtime: float | None = None
    allow_failures: bool = False
