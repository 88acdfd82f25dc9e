"""What keeps a promise is removed, one thing at a time, and each time a test must go red.

Each removal is made in a copy of the checkout, which the tests and the programs that they start import from;
the checkout itself is never touched. It fails when a removal leaves its test green, when the text that is to
be removed is not there any more, and when a test is red without any removal.

    python -m tests.trust.mutations
    python -m tests.trust.mutations heartbeat        those whose name has this in it
"""

import argparse
import asyncio
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import server

CHECKOUT = Path(__file__).parent.parent.parent
# What the tests need of it.
COPIED = ("syncer", "migrations", "tests", "pyproject.toml")
# The tests wait more than they work.
AT_ONCE = 4
# A run of tests that takes longer (seconds) hangs.
PATIENCE = 1800.0
# pytest's exit codes.
GREEN, RED = 0, 1


@dataclass(frozen=True, slots=True)
class Mutation:
    """removed: in words. file: below the checkout. edits: a text that stands there once, what then stands
    in its place. test: the one that goes red.
    """

    removed: str
    file: str
    edits: tuple[tuple[str, str], ...]
    test: str

    @property
    def test_name(self) -> str:
        """Without its file and its parameters."""
        return self.test.partition("::")[2].partition("[")[0]


def _one(removed: str, file: str, text: str, instead: str, test: str) -> Mutation:
    return Mutation(removed, file, ((text, instead),), f"tests/{test}")


# The end of a batch's transaction.
RECORD = "            await self._record(connection, settlement)\n"
END = "        return settlement\n\n    async def _confirmation"
IN_TRANSACTION = RECORD + END

MUTATIONS = (
    # An older answer never wins, in whatever order; and nobody waits for each other in a circle.
    _one(
        "the order of the rows in an insert",
        "syncer/store/statements.py",
        '        ORDER BY {", ".join(key)}\n',
        "",
        "test_writer.py::test_rows_are_added_in_the_order_of_their_keys",
    ),
    _one(
        "the order of the locks on connections",
        "syncer/store/statements.py",
        "    ORDER BY id\n    FOR NO KEY UPDATE",
        "    FOR NO KEY UPDATE",
        "test_writer.py::test_rows_are_locked_in_the_order_of_their_keys[changed]",
    ),
    _one(
        "the order of the locks on participants",
        "syncer/store/statements.py",
        '        ORDER BY {", ".join(key)}\n',
        "",
        "test_writer.py::test_rows_are_locked_in_the_order_of_their_keys[named]",
    ),
    _one(
        "the order of failures that are recorded",
        "syncer/store/statements.py",
        "    ORDER BY identifier\n    ON CONFLICT",
        "    ON CONFLICT",
        "test_writer.py::test_rows_are_locked_in_the_order_of_their_keys[failed]",
    ),
    _one(
        "the order of failures that are cleared",
        "syncer/store/statements.py",
        "        ORDER BY identifier\n        FOR UPDATE",
        "        FOR UPDATE",
        "test_writer.py::test_rows_are_locked_in_the_order_of_their_keys[cleared]",
    ),
    _one(
        "the stale guard",
        "syncer/store/changes.py",
        "    if known is not None and connection.updated_at < known.updated_at:\n"
        "        return Outcome.STALE\n",
        "",
        "test_writer.py::test_a_late_answer_neither_overwrites_nor_removes",
    ),
    _one(
        "the stale guard, at equal times",
        "syncer/store/changes.py",
        "    if late:\n        return Outcome.STALE\n",
        "",
        "test_changes.py::test_nothing_is_touched",
    ),
    _one(
        "the stale guard of a removal",
        "syncer/store/changes.py",
        "    if known is not None and answer.asked_at < known.synced_at and known.removed_at is None:\n"
        "        return Outcome.STALE\n",
        "",
        "test_writer.py::test_a_late_answer_neither_overwrites_nor_removes",
    ),
    _one(
        "the second look, with the rows locked",
        "syncer/store/writer.py",
        "            if not to_lock:\n",
        "            if not to_lock or not locked:\n",
        "test_writer.py::test_what_others_commit_between_the_look_and_the_write_is_not_overwritten[changed]",
    ),
    _one(
        "the second look, when others were the first to add a connection",
        "syncer/store/writer.py",
        "is_passing(error) or violated(error) == statements.SAME_CONNECTION",
        "is_passing(error)",
        "test_writer.py::test_what_others_commit_between_the_look_and_the_write_is_not_overwritten[added]",
    ),
    _one(
        "the guard of participants' names in the SQL",
        "syncer/store/statements.py",
        """        WHERE (participant.updated_at, participant.connection_id COLLATE "C")
              <= (excluded.updated_at, excluded.connection_id COLLATE "C")
""",
        "",
        "test_writer.py::test_what_others_commit_between_the_look_and_the_write_is_not_overwritten[named]",
    ),
    _one(
        "the trace of what was not found",
        "syncer/store/writer.py",
        '        await self._write(statements.PUT_NOT_FOUND, ("id", "asked_at"), not_found)\n',
        "        del not_found\n",
        "test_writer.py::test_what_was_not_found_is_not_brought_back_by_what_was_asked_earlier",
    ),
    _one(
        "the lock between what was found and what was not",
        "syncer/store/writer.py",
        "statements.LOCK_ALONE if locks.alone else statements.LOCK_TOGETHER",
        "statements.LOCK_TOGETHER",
        "test_writer.py::test_found_and_not_found_at_once_end_as_if_one_came_after_the_other",
    ),
    # Rows, outcomes and checkpoint commit together; acknowledged is what is committed.
    Mutation(
        "delete after commit: it is before",
        "syncer/store/writer.py",
        (
            (IN_TRANSACTION, f"{RECORD}            await self._committed(settlement)\n{END}"),
            (
                "        await self._committed(self._ledger.settle(settlement))\n",
                (
                    "        late = self._ledger.settle(settlement).done[len(settlement.done) :]\n"
                    "        await self._committed(Settlement(Counter(), late, (), 0, 0))\n"
                ),
            ),
        ),
        "tests/trust/test_crashes.py::test_killed_at_this_very_point_nothing_is_lost[queue committed]",
    ),
    _one(
        "the checkpoint's place in the transaction: it is after",
        "syncer/store/writer.py",
        IN_TRANSACTION,
        f"        async with self._pool.transaction() as connection:\n{RECORD}{END}",
        "test_writer.py::test_the_checkpoint_is_committed_with_the_rows",
    ),
    _one(
        "the checkpoint's place in the transaction: it is before",
        "syncer/store/writer.py",
        IN_TRANSACTION,
        "            async with self._pool.transaction() as earlier:\n"
        f"                await self._record(earlier, settlement)\n{END}",
        "trust/test_crashes.py::test_killed_at_this_very_point_nothing_is_lost[file committed]",
    ),
    _one(
        "the checkpoint's stop before the first unsettled item",
        "syncer/ledger.py",
        "        while checkpoint in self._above or checkpoint in positions:\n            checkpoint += 1\n",
        "        checkpoint = max([checkpoint, *(position + 1 for position in positions)])\n",
        "test_ledger.py::test_the_checkpoint_stops_before_the_first_unsettled_item",
    ),
    _one(
        "the one transaction of a migration",
        "migrations/env.py",
        "    context.configure(connection=connection,",
        "    connection = connection.execution_options(isolation_level='AUTOCOMMIT')\n"
        "    context.configure(connection=connection,",
        "trust/test_crashes.py::test_killed_at_this_very_point_nothing_is_lost[migration migrating]",
    ),
    _one(
        "the refusal to resume another input",
        "syncer/resume.py",
        "    if earlier.input_digest != content:\n",
        "    if earlier.input_digest is None:\n",
        "test_listing.py::test_a_changed_input_is_not_resumed",
    ),
    # Each item has one outcome.
    _one(
        "the ID check",
        "syncer/identifiers.py",
        "    if CONNECTION_ID.fullmatch(text):\n",
        '    if text.startswith("pac-"):\n',
        "test_sync.py::test_what_is_no_connection_id_is_recorded_and_never_asked_for",
    ),
    _one(
        "the check that an answer is about the ID that was asked for",
        "syncer/normalize.py",
        '    if reader.text(answer, "Id") != identifier:\n',
        '    if not reader.text(answer, "Id"):\n',
        "test_normalize.py::test_what_a_row_cannot_do_without_is_refused_by_name",
    ),
    _one(
        "the record of what is no ID, or failed",
        "syncer/store/writer.py",
        "        if not failures:\n            return\n",
        "        if failures is not None:\n            return\n",
        "test_sync.py::test_what_is_no_connection_id_is_recorded_and_never_asked_for",
    ),
    _one(
        "the end of a recorded failure",
        "syncer/store/writer.py",
        "            await batch.clear_failures([answer for answer in fetched"
        " if answer.item.identifier not in held])\n",
        "",
        "test_sync.py::test_attempts_used_up_are_a_failure_that_goes_when_the_id_settles",
    ),
    _one(
        "the halving of a batch that the database refuses",
        "syncer/store/writer.py",
        "            if not is_refusal(error):\n                raise\n",
        "            raise\n",
        "test_writer.py::test_a_row_that_the_database_refuses_costs_only_itself",
    ),
    _one(
        "the replacement of what Postgres cannot store",
        "syncer/storable.py",
        "    return UNSTORABLE.sub(REPLACEMENT, text)\n",
        "    return text\n",
        "test_writer.py::test_hostile_text_arrives_or_is_replaced",
    ),
    _one(
        "the outcome of a duplicate",
        "syncer/ledger.py",
        "            done.extend(Settled(item, outcome, code) for item in items)\n",
        "            done.extend(Settled(item, outcome, code) for item in items[:1])\n",
        "test_ledger.py::test_one_call_serves_all_that_wait_for_the_same_id",
    ),
    _one(
        "the outcome of a duplicate that is read during the commit",
        "syncer/ledger.py",
        "        if len(items) > len(settlement.done):\n"
        "            settlement = _with_late_ones(settlement, items)\n",
        "",
        "test_ledger.py::test_what_is_read_during_the_commit_is_served_by_the_same_call",
    ),
    _one(
        "one call for an ID that is in flight already",
        "syncer/ledger.py",
        "        return len(items) == 1\n",
        "        return True\n",
        "test_sync.py::test_the_same_id_in_flight_is_asked_for_once",
    ),
    _one(
        "nothing is written where nothing has changed",
        "syncer/store/changes.py",
        "    if same and not types and not versions and not participants and not erased:\n",
        "    if same and not types and not versions and not participants and answer is None:\n",
        "test_sync.py::test_an_identical_second_run_touches_no_row",
    ),
    # Queues.
    _one(
        "the heartbeat: messages that are worked on stay invisible",
        "syncer/sources/inbox.py",
        "            await self._hide_now([(message, self._visibility) for message in due])\n",
        "            del due\n",
        "test_work.py::test_messages_are_held_for_as_long_as_they_wait",
    ),
    _one(
        "the wait for all of a message's IDs",
        "syncer/sources/holding.py",
        "            if not message.open and not self._keep:\n",
        "            if not self._keep:\n",
        "test_holding.py::test_a_message_is_deleted_when_all_its_items_are_settled",
    ),
    _one(
        "a call of its own for a message that came later than the call",
        "syncer/sources/holding.py",
        "        return taken_at is not None and taken_at < entry.message.sent_at + MARGIN\n",
        "        return False\n",
        "test_holding.py::test_a_message_of_after_the_call_waits_for_a_call_of_its_own",
    ),
    _one(
        "the look at what of a batch was not deleted",
        "syncer/sqs/client.py",
        '        return [int(each["Id"]) for each in answer.get("Failed", [])'
        ' if each.get("Code") not in LAPSED]\n',
        '        return [int(each["Id"]) for each in answer.get("Nothing", [])]\n',
        "test_work.py::test_what_a_batch_did_not_delete_is_deleted_alone",
    ),
    # The listing, and what is no longer there.
    _one(
        "absence from half a listing means nothing",
        "syncer/sources/listing.py",
        "            if broken is not None:\n                raise broken\n",
        "",
        "test_listing.py::test_a_listing_that_does_not_reach_its_end_removes_nothing",
    ),
    _one(
        "the hold-back of mass removals",
        "syncer/account_run.py",
        "        if held > FEW_REMOVED and held > MOST_REMOVED * live"
        " and not self._settings.allow_mass_removal:\n",
        "        if held > 2 * live:\n",
        "test_listing.py::test_a_mass_removal_is_held_back_until_somebody_allows_it",
    ),
    _one(
        "only a complete run moves the freshness",
        "migrations/versions/0005_reporting.py",
        "AND run.source = 'listing' AND run.status = 'succeeded' AND run.finished_at IS NOT NULL",
        "AND run.source = 'listing' AND run.finished_at IS NOT NULL",
        "test_listing.py::test_a_listing_that_does_not_reach_its_end_removes_nothing",
    ),
    _one(
        "the run lock",
        "syncer/store/lock.py",
        '        taken = await scalar(connection, TRY, {"what": what})\n',
        '        taken = await scalar(connection, TRY, {"what": what}) is not None\n',
        "test_listing.py::test_two_runs_at_once_are_one_run",
    ),
    # The quota, and memory.
    Mutation(
        "a throttled call is no attempt",
        "syncer/partner_central/retry.py",
        (
            (
                "retry=retry_if_exception_type(Transient)",
                "retry=retry_if_exception_type((Transient, Throttled))",
            ),
            ("stop=stop_never", "stop=stop_after_attempt(1)"),
        ),
        "tests/test_retry.py::test_attempts_are_used_up_by_failures_alone",
    ),
    _one(
        "the window within which is read ahead",
        "syncer/pipeline.py",
        "        while self._ledger.ahead >= self._window:\n",
        "        while self._ledger.ahead < 0:\n",
        "test_pipeline.py::test_reading_stays_within_a_window_of_the_checkpoint",
    ),
)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run of tests went. said: its last lines."""

    exit: int
    said: str
    seconds: float

    @property
    def failed(self) -> str:
        """The first test that failed, and why, as far as pytest tells in a line."""
        found = re.search(r"^FAILED \S+?::(.*)", self.said, re.MULTILINE)
        return found[1] if found else ""


def mutated(mutation: Mutation, tree: Path) -> str | None:
    """Make the removal in `tree`; why that cannot be done, if it cannot."""
    path = tree / mutation.file
    text = path.read_text()
    for before, after in mutation.edits:
        if text.count(before) != 1:
            return f"{mutation.file} has {text.count(before)} times, not once:\n{before}"
        text = text.replace(before, after)
    compile(text, mutation.file, "exec")
    path.write_text(text)
    return None


def copied(tree: Path) -> None:
    for name in COPIED:
        if (CHECKOUT / name).is_dir():
            shutil.copytree(CHECKOUT / name, tree / name)
        else:
            shutil.copy2(CHECKOUT / name, tree / name)


async def tried(tree: Path, tests: Sequence[str], server_url: str, processes: str = "0") -> Ended:
    """Run `tests` of the checkout in `tree`, with the program that is there."""
    began = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pytest", "-n", processes, "-x", "-p", "no:cacheprovider", "--tb=short", *tests,
        cwd=tree, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        env=os.environ | {
            "PYTHONPATH": str(tree), "SYNCER_TEST_DATABASE_URL": server_url, "COLUMNS": "160"
        },
    )  # fmt: skip
    try:
        said, _ = await asyncio.wait_for(process.communicate(), PATIENCE)
    except TimeoutError:
        process.kill()
        said, _ = await process.communicate()
    assert process.returncode is not None
    return Ended(process.returncode, said.decode()[-6000:], time.monotonic() - began)


async def red(mutation: Mutation, folder: Path, server_url: str) -> tuple[str, str | None]:
    """What went red, and what is wrong: None where all is as it should be."""
    tree = Path(tempfile.mkdtemp(dir=folder))
    await asyncio.to_thread(copied, tree)
    gone = mutated(mutation, tree)
    if gone is not None:
        return "", gone
    ended = await tried(tree, [mutation.test], server_url)
    shutil.rmtree(tree)
    if ended.exit == RED:
        return f"{ended.failed} ({ended.seconds:.0f} s)", None
    if ended.exit == GREEN:
        return "", f"nothing noticed: {mutation.test}"
    return "", f"could not be tried (exit {ended.exit}): {ended.said}"


async def _untouched(mutations: Sequence[Mutation], folder: Path, server_url: str) -> tuple[str, str | None]:
    """Likewise, with nothing removed: all tests are green then."""
    tree = Path(tempfile.mkdtemp(dir=folder))
    await asyncio.to_thread(copied, tree)
    ended = await tried(tree, sorted({each.test for each in mutations}), server_url, processes="2")
    if ended.exit == GREEN:
        return f"all green ({ended.seconds:.0f} s)", None
    return "", f"a test is red by itself (exit {ended.exit}): {ended.said}"


async def main(mutations: Sequence[Mutation], at_once: int) -> int:
    limit = asyncio.Semaphore(at_once)
    wrong: dict[str, str] = {}

    async def tell(removed: str, trying: Coroutine[None, None, tuple[str, str | None]]) -> None:
        async with limit:
            what, problem = await trying
        print(f"{removed:70} -> {what or 'NOT AS IT SHOULD BE'}", flush=True)
        if problem is not None:
            wrong[removed] = problem

    with tempfile.TemporaryDirectory(prefix="syncer-mutations-") as name, server() as url:
        folder = Path(name)
        await asyncio.gather(
            tell("nothing", _untouched(mutations, folder, url)),
            *(tell(each.removed, red(each, folder, url)) for each in mutations),
        )
    for removed, problem in wrong.items():
        print(f"\nwithout {removed}: {problem}")
    print(f"\nof {len(mutations)} removals {len(mutations) - len(wrong.keys() - {'nothing'})} are noticed")
    return 1 if wrong else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="remove what keeps a promise, and see a test go red")
    parser.add_argument("only", nargs="?", default="", help="those whose name has this in it")
    parser.add_argument("--at-once", type=int, default=AT_ONCE)
    given = parser.parse_args()
    chosen = [each for each in MUTATIONS if given.only in each.removed]
    if not chosen:
        parser.error(f"no removal is called so: {given.only}")
    sys.exit(asyncio.run(main(chosen, given.at_once)))
