"""How a worker ended, put together from how its runs did."""

import pytest

from syncer.exits import Exit
from syncer.report import Report, ended_by, followed_by
from syncer.stopping import Ending

STOPPED = Ending("interrupted", Exit.TERMINATED, "stopped by SIGTERM")


def report(status: str, exit_code: Exit, read: int = 0) -> Report:
    return Report("run", status, "queue", "1", "AWS", {"read": read}, 1.0, exit_code)


@pytest.mark.parametrize(
    ("first", "then", "ended"),
    [
        (Exit.OK, Exit.OK, Exit.OK),
        (Exit.INCOMPLETE, Exit.OK, Exit.INCOMPLETE),
        (Exit.INCOMPLETE, Exit.LATER, Exit.LATER),
        (Exit.OK, Exit.TERMINATED, Exit.TERMINATED),
    ],
)
def test_a_worker_ends_as_its_last_run_but_failures_of_earlier_ones_remain(
    first: Exit, then: Exit, ended: Exit
) -> None:
    both = followed_by(report("a", first, read=2), report("b", then, read=3))
    assert (both.exit, both.counts, both.seconds) == (ended, {"read": 5}, 2.0)


@pytest.mark.parametrize(
    ("ending", "exit_code", "ended"),
    [
        (None, Exit.OK, Exit.OK),
        # The signal came when the last run had just ended by itself.
        (STOPPED, Exit.OK, Exit.TERMINATED),
        (STOPPED, Exit.INCOMPLETE, Exit.TERMINATED),
        (STOPPED, Exit.TERMINATED, Exit.TERMINATED),
        # What is wrong weighs more than who asked.
        (STOPPED, Exit.DENIED, Exit.DENIED),
    ],
)
def test_who_was_asked_to_end_says_so(ending: Ending | None, exit_code: Exit, ended: Exit) -> None:
    assert ended_by(report("succeeded", exit_code), ending).exit is ended
