"""`syncer status`: the summary as tables for people or JSON for programs, and as a one-line monitor."""

import json
from dataclasses import asdict
from datetime import datetime, timedelta

from rich.console import Console
from rich.table import Table

from syncer.store.pool import Pool
from syncer.store.summary import Freshness, Summary, summary


async def status(database_url: str) -> Summary:
    """The summary of the database at `database_url`. Raises `DatabaseError`."""
    async with Pool(database_url) as pool:
        return await summary(pool)


def too_old(found: Summary, max_age: timedelta) -> list[Freshness]:
    """Those that were last in step longer ago than `max_age`, or never."""
    limit = max_age.total_seconds()
    return [each for each in found.freshness if each.age_seconds is None or each.age_seconds > limit]


def complaint(each: Freshness, max_age: timedelta) -> str:
    """One line about an account and catalog that is too old."""
    age = "never" if each.age_seconds is None else f"{timedelta(seconds=round(each.age_seconds))} ago"
    return (
        f"account {each.account_id}, catalog {each.catalog}: last in step {age}, more than {max_age} allowed"
    )


def as_json(found: Summary) -> str:
    return json.dumps(asdict(found), default=datetime.isoformat)


def print_tables(found: Summary, console: Console) -> None:
    """The four parts, those that have something in them."""
    _table(
        console,
        "Last runs",
        ("started", "source", "account", "status", "s", "read", "written", "failed"),
        [
            (
                f"{run.started_at:%m-%d %H:%M:%S}", run.source, f"{run.account_id} {run.catalog}", run.status,
                "" if run.seconds is None else f"{run.seconds:.1f}",
                f"{run.read:,}", f"{run.written:,}", f"{run.failed:,}",
            )
            for run in found.runs
        ],
    )  # fmt: skip
    _table(
        console,
        "In step",
        ("account", "catalog", "live connections", "last complete sync", "age"),
        [
            (
                each.account_id, each.catalog, f"{each.live:,}",
                f"{each.complete_at:%Y-%m-%d %H:%M}" if each.complete_at else "never",
                "" if each.age_seconds is None else str(timedelta(seconds=round(each.age_seconds))),
            )
            for each in found.freshness
        ],
    )  # fmt: skip
    _table(
        console,
        "Failures",
        ("account", "catalog", "code", "IDs"),
        [(each.account_id, each.catalog, each.code, f"{each.ids:,}") for each in found.failures],
    )
    _table(
        console,
        "Learned rates",
        ("account", "catalog", "operation", "calls/s", "learned"),
        [
            (
                each.account_id, each.catalog, each.operation, f"{each.rate:.1f}",
                f"{each.learned_at:%Y-%m-%d %H:%M:%S}",
            )
            for each in found.rates
        ],
    )  # fmt: skip
    if not found.runs:
        console.print("No run yet.")


def _table(console: Console, title: str, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    if not rows:
        return
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print(table)
