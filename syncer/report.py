"""What a run tells at its end: one object, as a table for people or as JSON for programs."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich.console import Console
from rich.table import Table

from syncer.exits import Exit
from syncer.ledger import Ledger
from syncer.outcomes import Outcome
from syncer.settings import RunSettings
from syncer.stopping import Ending
from syncer.store.preview import Difference

# From well to worst. That somebody stopped it weighs less than that it could not have gone on.
GRAVITY = (
    Exit.OK,
    Exit.INCOMPLETE,
    Exit.INTERRUPTED,
    Exit.TERMINATED,
    Exit.LATER,
    Exit.USAGE,
    Exit.NOT_SET_UP,
    Exit.DENIED,
    Exit.UNSOUND,
)


@dataclass(frozen=True, slots=True)
class Report:
    """A run's result.

    counts: `read`, the nine outcomes, `api_calls`, `throttled`, `retried`, `rows_written`.
    seconds: how long it took. message: why it ended early, for a person; empty when it did not.
    differences: of a dry run, the first of what would be written; None if it was none.
    """

    run_id: str
    status: str
    source: str
    account_id: str
    catalog: str
    counts: dict[str, int]
    seconds: float
    exit: Exit
    message: str = ""
    differences: tuple[Difference, ...] | None = None

    def as_dict(self) -> dict[str, object]:
        return {
            "run_id": self.run_id,
            "status": self.status,
            "source": self.source,
            "account_id": self.account_id,
            "catalog": self.catalog,
            **{name: count for name, count in self.counts.items() if name != "checkpoint"},
            "seconds": self.seconds,
        }


def unstarted(settings: RunSettings, account_id: str, exit_code: Exit, message: str) -> Report:
    """The report of an account's run that could not begin."""
    counts = Ledger().standing()
    return Report(
        "", "aborted", settings.input, account_id, settings.catalog, counts, 0.0, exit_code, message
    )


def as_json(reports: Sequence[Report]) -> str:
    """One object: the run's own, or, of several accounts, their sum with the runs in it."""
    if len(reports) == 1:
        return json.dumps(reports[0].as_dict())
    runs = [report.as_dict() for report in reports]
    total = {
        name: sum(report.counts[name] for report in reports)
        for name in reports[0].counts
        if name != "checkpoint"
    }
    return json.dumps(
        {
            "run_id": None,
            "status": worst(reports).status,
            "source": reports[0].source,
            "account_id": None,
            "catalog": reports[0].catalog,
            **total,
            "seconds": max(report.seconds for report in reports),
            "runs": runs,
        }
    )


def worst(reports: Sequence[Report]) -> Report:
    """The report that speaks for all: the one with the gravest exit code."""
    return max(reports, key=lambda report: GRAVITY.index(report.exit))


def followed_by(first: Report, then: Report) -> Report:
    """Two runs of one worker as one: it ended as the later one did, but failures of the first remain."""
    ending = first if then.exit is Exit.OK and first.exit is Exit.INCOMPLETE else then
    return replace(
        then,
        status=ending.status,
        exit=ending.exit,
        message=ending.message,
        counts={name: first.counts[name] + count for name, count in then.counts.items()},
        seconds=round(first.seconds + then.seconds, 3),
        differences=then.differences if first.differences is None else first.differences,
    )


def ended_by(report: Report, ending: Ending | None) -> Report:
    """`report`, of a worker that was asked to end: also where its last run had ended by itself just then."""
    if ending is None or report.exit not in (Exit.OK, Exit.INCOMPLETE):
        return report
    return replace(report, status=ending.status, exit=ending.exit, message=ending.message)


def print_table(report: Report, console: Console) -> None:
    """What happened, outcome by outcome; those that did not occur are left out."""
    counts = report.counts
    console.print(
        f"{report.status}: account {report.account_id}, catalog {report.catalog}",
        style="bold green" if report.exit is Exit.OK else "bold red",
        highlight=False,
    )
    table = Table()
    table.add_column("outcome")
    table.add_column("items", justify="right")
    for outcome in Outcome:
        if counts[outcome.value]:
            table.add_row(outcome.value, f"{counts[outcome.value]:,}")
    table.add_section()
    table.add_row("read", f"{counts['read']:,}")
    console.print(table)
    rate = counts["api_calls"] / report.seconds if report.seconds else 0.0
    if report.differences is not None:
        _print_differences(report.differences, console)
    console.print(
        f"{counts['api_calls']:,} calls ({counts['throttled']:,} throttled, {counts['retried']:,} retried), "
        f"{counts['rows_written']:,} rows written, {report.seconds:.1f} s, {rate:,.0f} calls/s. "
        f"Run {report.run_id}.",
        highlight=False,
        soft_wrap=True,
    )


def _print_differences(differences: Sequence[Difference], console: Console) -> None:
    console.print("Nothing was written: this was a dry run.", highlight=False)
    if not differences:
        return
    table = Table(title="The first of what would be written")
    for name in ("row", "field", "is", "would be"):
        table.add_column(name)
    for each in differences:
        table.add_row(each.row, each.field, each.before or "", each.after)
    console.print(table)
