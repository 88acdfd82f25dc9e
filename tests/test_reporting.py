"""The views of schema `reporting`, against a computation of our own from what was served over a week.

Each day something of each kind happens to a population; what the API would answer then is written as a sync
of that day would write it, at that day's times. The computation knows the answers and these times only.
"""

import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple

import anyio
import psycopg
import pytest

from syncer.answers import Answer, Failure, Found, Missing
from syncer.identifiers import Item
from syncer.ledger import Ledger, Settlement
from syncer.normalize import normalized
from syncer.outcomes import Outcome
from syncer.partner_central.population import Population
from syncer.store import runs
from syncer.store.pool import Pool
from syncer.store.writer import Scope, Writer
from tests.benchmarks.reporting import VIEWS, build, cost, tables_of
from tests.conftest import rows
from tests.test_readme import section

ACCOUNT = "111122223333"
SIZE, NEW_EACH_DAY, DAYS = 60, 4, 7
TODAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)

Served = dict[str, dict[str, Any] | None]


class Seen(NamedTuple):
    """What was served at a time, in full."""

    at: datetime
    answers: Served


class Version(NamedTuple):
    """A type as it was from `start` on. more: what no view tells. gone: it is not there any more."""

    start: datetime
    status: str
    kind: str
    participant: str
    name: str
    more: tuple[str | None, ...]
    gone: bool


# What makes a version too, though no view tells of it.
UNTOLD = ("CreatedAt", "CanceledAt", "CanceledBy", "InviterName", "InviterEmail")

# What happens to an answer, all types of it. Each says what it does to one type.


def cancel(detail: dict[str, Any], now: datetime) -> None:
    detail |= {"Status": "CANCELED", "CanceledAt": text(now - timedelta(hours=1)), "CanceledBy": ACCOUNT}


def reactivate(detail: dict[str, Any], _: datetime) -> None:
    detail["Status"] = "ACTIVE"
    detail.pop("CanceledAt", None)
    detail.pop("CanceledBy", None)


def pause(detail: dict[str, Any], _: datetime) -> None:
    detail["Status"] = "PAUSED"


def rename(detail: dict[str, Any], now: datetime) -> None:
    for content in detail["OtherParticipant"].values():
        content["Name"] += f" {now:%a}"


def another_participant(detail: dict[str, Any], now: datetime) -> None:
    detail["OtherParticipant"] = {"SellerProfile": {"Id": f"seller-{now:%d}", "Name": f"Seller {now:%d}"}}


def another_inviter(detail: dict[str, Any], now: datetime) -> None:
    detail["InviterName"] = f"Somebody {now:%a}"


CHANGES = (cancel, cancel, reactivate, pause, rename, another_participant, another_inviter)


class World:
    """A population and what happens to it, day by day."""

    def __init__(self) -> None:
        self.dice = random.Random(6)
        everyone = Population(SIZE + DAYS * NEW_EACH_DAY, seed=730)
        self._answers = [everyone.connection(number) for number in range(everyone.size)]
        self.served: Served = {}
        self._gone: dict[str, dict[str, Any]] = {}
        # All of it lies before the week.
        latest = max(time(each["UpdatedAt"]) for each in self._answers)
        self._by = TODAY - timedelta(days=DAYS + 1) - latest
        self._appear(SIZE)

    def day(self, now: datetime) -> None:
        self._appear(NEW_EACH_DAY)
        for change in CHANGES:
            for moved in (True, False):
                self._happens(change, now, moved=moved)
        identifier, answer = self._one()
        if len(answer["ConnectionTypes"]) > 1:
            answer["ConnectionTypes"].popitem()
        else:
            (detail,) = answer["ConnectionTypes"].values()
            answer["ConnectionTypes"] = {"OPPORTUNITY_COLLABORATION": detail, "SUBSIDIARY": deepcopy(detail)}
        answer["UpdatedAt"] = text(now - timedelta(hours=2))
        # Some come back: one as it was, one that had two types with one of them.
        gone = sorted(self._gone, key=lambda id: len(self._gone[id]["ConnectionTypes"]))
        for identifier in gone[:1] + gone[-1:] if len(gone) > 1 else []:
            answer = self._gone.pop(identifier)
            if len(answer["ConnectionTypes"]) > 1:
                answer["ConnectionTypes"].popitem()
                answer["UpdatedAt"] = text(now - timedelta(hours=1))
            self.served[identifier] = answer
        for _ in range(3):
            identifier, answer = self._one()
            self._gone[identifier], self.served[identifier] = answer, None

    def _happens(
        self, change: Callable[[dict[str, Any], datetime], None], now: datetime, *, moved: bool
    ) -> None:
        _, answer = self._one()
        for detail in answer["ConnectionTypes"].values():
            change(detail, now)
        if moved:
            answer["UpdatedAt"] = text(now - timedelta(minutes=self.dice.randint(1, 300)))

    def _one(self) -> tuple[str, dict[str, Any]]:
        while True:
            identifier = self.dice.choice([*self.served])
            answer = self.served[identifier]
            if answer is not None:
                return identifier, answer

    def _appear(self, number: int) -> None:
        for answer in self._answers[len(self.served) : len(self.served) + number]:
            answer["UpdatedAt"] = text(time(answer["UpdatedAt"]) + self._by)
            for detail in answer["ConnectionTypes"].values():
                for member in {"CreatedAt", "CanceledAt"} & {*detail}:
                    detail[member] = text(time(detail[member]) + self._by)
            self.served[answer["Id"]] = answer


def time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def text(moment: datetime) -> str:
    return moment.isoformat()


async def sync(
    pool: Pool,
    at: datetime,
    answers: Served,
    *,
    catalog: str = "AWS",
    source: str = "listing",
    status: str | None = "succeeded",
    failed: Iterable[str] = (),
) -> str:
    """Write `answers` as a run does that begins and asks at `at`, and ends a minute later; its ID.

    status: None leaves it on.
    """
    scope, ledger = Scope(runs.new_id(at), ACCOUNT, catalog), Ledger()

    async def committed(_: Settlement) -> None:
        pass

    writer = Writer(pool, scope, ledger, now=lambda: at, sleep=anyio.sleep, committed=committed)
    await runs.start(pool, scope, runs.Beginning(source, at))
    batch: list[Answer] = []
    for position, (identifier, answer) in enumerate(answers.items()):
        item = Item(position, identifier)
        ledger.read(item)
        if answer is None:
            batch.append(Missing(item, at))
        else:
            found = normalized(answer, identifier=identifier, catalog=catalog)
            batch.append(Found(item, at, found))
    for identifier in failed:
        item = Item(len(batch), identifier)
        ledger.read(item)
        batch.append(Failure(item, Outcome.FAILED, "InternalServerException", "", 6))
    if batch:
        await writer.write(batch)
        await writer.confirm_removals()
    if status is not None:
        await runs.finish(pool, scope, ledger, status=status, now=at + timedelta(minutes=1), seconds=60)
    return scope.run_id


@pytest.fixture
async def week(database_url: str) -> list[Seen]:
    """A database that was synced each day of a week, and what was served on these days."""
    pool, world, seen = Pool(database_url), World(), []
    for day in range(DAYS, -1, -1):
        at = TODAY - timedelta(days=day) + timedelta(hours=9) if day else TODAY
        seen.append(Seen(at, deepcopy(world.served)))
        await sync(pool, at, seen[-1].answers)
        # Asked once more there is nothing new.
        await sync(pool, at + timedelta(minutes=5), seen[-1].answers)
        world.day(at + timedelta(hours=6))
    await pool.close()
    return seen


def participant(answer: dict[str, Any], detail: dict[str, Any]) -> tuple[str, str, str]:
    ((kind, content),) = detail["OtherParticipant"].items()
    return kind, content.get("Id", answer["OtherParticipantAccountId"]), content["Name"]


def versions(week: list[Seen]) -> dict[tuple[str, str], list[Version]]:
    """The versions of each type."""
    found: dict[tuple[str, str], list[Version]] = defaultdict(list)
    for seen in week:
        for identifier, answer in seen.answers.items():
            shown = answer["ConnectionTypes"] if answer else {}
            updated = time(answer["UpdatedAt"]) if answer else seen.at
            for name in {name for id, name in [*found] if id == identifier} | {*shown}:
                before = found[identifier, name][-1] if found[identifier, name] else None
                start = updated if before is None or updated > before.start else seen.at
                if answer and name in shown:
                    detail = shown[name]
                    more = tuple(detail.get(member) for member in UNTOLD)
                    whose = participant(answer, detail)
                    now = Version(start, detail["Status"], *whose, more, gone=False)
                else:
                    assert before
                    now = before._replace(start=start, gone=True)
                if before is None or now[1:] != before[1:]:
                    found[identifier, name].append(now)
    return found


def names(week: list[Seen]) -> dict[tuple[str, str], str]:
    """Each participant's present name."""
    claims: dict[tuple[str, str], list[tuple[Any, ...]]] = defaultdict(list)
    for seen in week:
        for identifier, answer in seen.answers.items():
            if answer is None:
                continue
            updated = time(answer["UpdatedAt"])
            for type_name, detail in answer["ConnectionTypes"].items():
                kind, id, name = participant(answer, detail)
                claims[kind, id].append((updated, identifier, seen.at, type_name, name))
    return {key: max(each)[-1] for key, each in claims.items()}


class Flat(NamedTuple):
    """What is last known of a type."""

    id: str
    type: str
    answer: dict[str, Any]
    detail: dict[str, Any]
    participant: tuple[str, str, str]
    removed_at: datetime | None
    first_seen_at: datetime
    synced_at: datetime

    @property
    def active(self) -> bool:
        return self.detail["Status"] == "ACTIVE" and self.removed_at is None


def flat(week: list[Seen]) -> Iterator[Flat]:
    for identifier in week[-1].answers:
        # Of what was served each day, what was another thing than the day before.
        news: list[tuple[datetime, dict[str, Any] | None]] = []
        for seen in week:
            answer = seen.answers.get(identifier)
            if answer != (news[-1][1] if news else None):
                news.append((seen.at, answer))
        shown: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
        removed: dict[str, datetime] = {}
        for at, answer in news:
            if answer is not None:
                for name in shown.keys() - answer["ConnectionTypes"].keys():
                    removed.setdefault(name, at)
                for name, detail in answer["ConnectionTypes"].items():
                    shown[name] = answer, detail
                    removed.pop(name, None)
        last = next(answer for _, answer in reversed(news) if answer)
        gone = None if news[-1][1] else news[-1][0]
        for name, (of, detail) in shown.items():
            when = min((at for at in (removed.get(name), gone) if at), default=None)
            whose = participant(of, detail)
            yield Flat(identifier, name, last, detail, whose, when, news[0][0], news[-1][0])


def assert_same(stored: Iterable[tuple[Any, ...]], expected: Iterable[tuple[Any, ...]]) -> None:
    too_many, missing = Counter(stored), Counter(expected)
    assert (too_many - missing, missing - too_many) == (Counter(), Counter())


async def test_connections(week: list[Seen], database_url: str) -> None:
    stored = rows(database_url, "SELECT now(), * FROM reporting.connections")
    now, named = stored[0][0], names(week)
    expected = []
    for each in flat(week):
        kind, id, _ = each.participant
        created = time(each.detail["CreatedAt"])
        canceled = time(each.detail["CanceledAt"]) if "CanceledAt" in each.detail else None
        until = min((at for at in (canceled, each.removed_at) if at), default=now)
        expected.append(
            (now, ACCOUNT, "AWS", each.id, each.type, each.detail["Status"], kind, id, named[kind, id],
             each.answer["OtherParticipantAccountId"], created, canceled, each.detail.get("CanceledBy"),
             max(0, (until - created).days), each.active, each.removed_at is not None, each.removed_at,
             time(each.answer["UpdatedAt"]), each.first_seen_at, each.synced_at)
        )  # fmt: skip
    assert_same(stored, expected)
    # The week had something of each kind.
    assert {True, False} == {each.active for each in flat(week)}
    assert {"ACTIVE", "CANCELED", "PAUSED"} == {each.detail["Status"] for each in flat(week)}
    assert any(each.removed_at for each in flat(week))


async def test_participants(week: list[Seen], database_url: str) -> None:
    types: dict[tuple[str, str], list[Flat]] = {key: [] for key in names(week)}
    for each in flat(week):
        types[each.participant[:2]].append(each)
    expected = []
    for (kind, id), theirs in types.items():
        by_time = sorted((time(each.detail["CreatedAt"]), each.id) for each in theirs)
        ends = (*by_time[0][::-1], *by_time[-1][::-1]) if by_time else (None,) * 4
        active = [each for each in theirs if each.active]
        expected.append(
            (ACCOUNT, "AWS", kind, id, names(week)[kind, id], *ends, len({each.id for each in theirs}),
             len({each.id for each in active}), ", ".join(sorted({each.type for each in active})) or None)
        )  # fmt: skip
    stored = rows(database_url, "SELECT * FROM reporting.participants")
    assert_same(stored, expected)
    assert any(each[-3] > 1 for each in expected)
    assert any(each[-3] == 0 for each in expected)


async def test_status_changes(week: list[Seen], database_url: str) -> None:
    expected = []
    for (identifier, name), series in versions(week).items():
        for before, version in zip([None, *series], series, strict=False):
            changes = []
            if before is None or version.status != before.status:
                told = {"ACTIVE": "activated", "CANCELED": "canceled"}
                changes.append(told.get(version.status, "status_changed"))
            if before and version.name != before.name:
                changes.append("renamed")
            if before and version.gone != before.gone:
                changes.append("removed" if version.gone else "restored")
            expected += [
                (ACCOUNT, "AWS", identifier, name, version.start, change, before and before.status,
                 version.status, version.kind, version.participant, version.name, before and before.name)
                for change in changes
            ]  # fmt: skip
    stored = rows(database_url, "SELECT * FROM reporting.status_changes")
    assert_same(stored, expected)
    assert {each[5] for each in expected} == {
        "activated", "canceled", "status_changed", "removed", "restored", "renamed",
    }  # fmt: skip


async def test_active_by_day(week: list[Seen], database_url: str) -> None:
    stored = rows(database_url, "SELECT now(), * FROM reporting.active_by_day")
    now = stored[0][0]
    active: Counter[tuple[date, str, str]] = Counter()
    for (_, name), series in versions(week).items():
        first: dict[str, date] = {}
        for version in series:
            first.setdefault(version.kind, version.start.date())
        for kind, day in first.items():
            while day <= now.astimezone(UTC).date():
                # The day's last version: one that begins at midnight is the next day's.
                last = [each for each in series if each.start.date() <= day][-1]
                active[day, name, kind] += last.kind == kind and last.status == "ACTIVE" and not last.gone
                day += timedelta(days=1)  # noqa: PLW2901
    expected = [(now, ACCOUNT, "AWS", *key[:1], *key[1:], count) for key, count in active.items()]
    assert_same(stored, expected)
    assert len({count for *_, count in expected}) > 10


def test_the_five_questions_of_the_readme_are_answered(week: list[Seen], database_url: str) -> None:
    assert week
    questions = re.findall(r"```sql\n(.*?)```", section("Reporting"), re.DOTALL)
    assert len(questions) == 5
    assert [question for question in questions if not rows(database_url, question)] == []


def test_the_views_cost_the_planner_at_most_three_scans_of_their_tables(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        build(connection, 20_000)
        for view in VIEWS:
            scans = sum(cost(connection, table) for table in tables_of(connection, view))
            assert cost(connection, f"reporting.{view}") <= 3 * scans, view
        # A year of hourly runs: however many there are, they are not gone through.
        plan = connection.execute("EXPLAIN SELECT * FROM reporting.sync_freshness").fetchall()
    assert not [line for (line,) in plan if "Seq Scan on sync_run" in line]


async def test_sync_freshness(week: list[Seen], database_url: str) -> None:
    pool, answers = Pool(database_url), week[-1].answers
    complete = TODAY + timedelta(minutes=6)  # the second of the last day, which found nothing new
    assert _freshness(database_url, "AWS")[:2] == (complete, timedelta())
    # Neither moves it: it is not from the listing, or did not reach its end.
    await sync(pool, TODAY + timedelta(minutes=10), answers, source="file")
    await sync(pool, TODAY + timedelta(minutes=20), {}, status="interrupted")
    partial = await sync(
        pool, TODAY + timedelta(minutes=30), answers, status="partial", failed=["pac-0", "pac-1"]
    )
    assert _freshness(database_url, "AWS") == (
        complete, timedelta(), partial, "listing", "partial", TODAY + timedelta(minutes=30),
        TODAY + timedelta(minutes=31), 2,
    )  # fmt: skip
    running = await sync(pool, TODAY + timedelta(minutes=40), {}, source="queue", status=None)
    never = await sync(pool, TODAY, {}, catalog="Sandbox", source="queue")
    await pool.close()
    assert _freshness(database_url, "AWS") == (
        complete, timedelta(), running, "queue", "running", TODAY + timedelta(minutes=40), None, 2,
    )  # fmt: skip
    assert _freshness(database_url, "Sandbox") == (
        None, None, never, "queue", "succeeded", TODAY, TODAY + timedelta(minutes=1), 0,
    )  # fmt: skip


def _freshness(url: str, catalog: str) -> tuple[Any, ...]:
    """The row of a catalog; instead of the lag, by how much it is another than it should be."""
    ((now, *_, complete, lag, run, source, status, started, finished, failures),) = rows(
        url, f"SELECT now(), * FROM reporting.sync_freshness WHERE catalog = '{catalog}'"
    )
    off = None if lag is None else now - complete - timedelta(seconds=lag)
    return complete, off, run, source, status, started, finished, failures
