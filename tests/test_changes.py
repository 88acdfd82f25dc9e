"""The decision about what a batch changes, as tables: answers and stored rows in, rows and outcomes out."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import permutations

import pytest

from syncer.answers import Connection, ConnectionType, Fetched, Found, Missing
from syncer.identifiers import Item
from syncer.outcomes import Outcome
from syncer.store.changes import Changes, Stored, decide

T0 = datetime(2026, 1, 1, tzinfo=UTC)
ONE, TWO = "pac-0000000000001", "pac-0000000000002"


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def a_type(
    name: str = "SUBSIDIARY", *, status: str = "ACTIVE", participant: str = "p1", named: str | None = "Acme"
) -> ConnectionType:
    return ConnectionType(
        name, status, T0, "i@x.example", "I", None, None, "PartnerProfile", participant, named
    )


def found(
    *types: ConnectionType, id: str = ONE, updated: float = 0, asked: float = 100, arn: str = "arn:1"
) -> Found:
    return Found(
        Item(0, id), at(asked), Connection(id, arn, "000000000001", at(updated), types or (a_type(),))
    )


def missing(*, id: str = ONE, asked: float = 100) -> Missing:
    return Missing(Item(0, id), at(asked))


def after(*answers: Fetched) -> Stored:
    """What is stored after `answers` were written, each in a batch of its own."""
    stored = Stored()
    for answer in answers:
        decide([answer], stored)
    return stored


def rows(changes: Changes) -> int:
    return len(changes.connections) + len(changes.types) + len(changes.participants)


def test_a_new_connection_is_written_with_all_its_rows() -> None:
    changes = decide([found(a_type("A"), a_type("B", participant="p2"))], Stored())
    assert changes.outcomes == [Outcome.WRITTEN]
    assert [*changes.connections] == [ONE]
    assert [*changes.types] == [(ONE, "A"), (ONE, "B")]
    assert [*changes.participants] == [("PartnerProfile", "p1"), ("PartnerProfile", "p2")]
    row = changes.connections[ONE]
    assert (row.first_seen_at, row.synced_at, row.removed_at) == (at(100), at(100), None)


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        pytest.param(found(asked=200), Outcome.UNCHANGED, id="the same, later"),
        pytest.param(found(asked=50), Outcome.UNCHANGED, id="the same, earlier"),
        pytest.param(found(updated=-1, asked=200), Outcome.STALE, id="an older version, asked later"),
        pytest.param(
            found(arn="arn:2", asked=50), Outcome.STALE, id="same time, other content, asked earlier"
        ),
        pytest.param(missing(asked=50), Outcome.STALE, id="not found, asked before what is stored"),
    ],
)
def test_nothing_is_touched(answer: Fetched, outcome: Outcome) -> None:
    changes = decide([answer], after(found()))
    assert changes.outcomes == [outcome]
    assert rows(changes) == 0


@pytest.mark.parametrize(
    ("answer", "touched"),
    [
        pytest.param(
            found(updated=1, asked=200), (1, 0, 1), id="only updated_at: who named the participant, too"
        ),
        pytest.param(found(arn="arn:2", asked=200), (1, 0, 0), id="same time, asked later"),
        pytest.param(found(a_type(status="CANCELED"), updated=1), (1, 1, 1), id="a status"),
        pytest.param(
            found(a_type(named="New"), asked=200), (1, 0, 1), id="a name, though updated_at stood still"
        ),
        pytest.param(found(updated=1, asked=50), (1, 0, 1), id="newer by updated_at, although asked earlier"),
    ],
)
def test_only_what_changed_is_written(answer: Found, touched: tuple[int, int, int]) -> None:
    changes = decide([answer], after(found()))
    assert changes.outcomes == [Outcome.WRITTEN]
    assert (len(changes.connections), len(changes.types), len(changes.participants)) == touched


@pytest.mark.parametrize(
    ("before", "asked", "outcome"),
    [
        pytest.param([missing(asked=100)], 50, Outcome.STALE, id="never stored, asked before"),
        pytest.param([missing(asked=100)], 100, Outcome.WRITTEN, id="never stored, asked at once"),
        pytest.param([missing(asked=100)], 150, Outcome.WRITTEN, id="never stored, asked since"),
        pytest.param(
            [missing(asked=100), missing(asked=70)], 80, Outcome.STALE, id="the last not found counts"
        ),
        pytest.param(
            [missing(asked=70), missing(asked=100)], 80, Outcome.STALE, id="the last not found counts, late"
        ),
        pytest.param([found(), missing(asked=200)], 150, Outcome.STALE, id="removed, asked before"),
        pytest.param([found(), missing(asked=200)], 250, Outcome.WRITTEN, id="removed, asked since"),
        pytest.param(
            [found(), missing(asked=200), missing(asked=300)], 250, Outcome.STALE, id="removed, gone again"
        ),
        pytest.param([missing(asked=10), found()], 5, Outcome.WRITTEN, id="live: updated_at decides"),
    ],
)
def test_what_is_not_live_is_brought_back_only_by_what_was_asked_since(
    before: list[Fetched], asked: float, outcome: Outcome
) -> None:
    """Though it is newer by `updated_at` than anything stored."""
    changes = decide([found(updated=1, asked=asked)], after(*before))
    assert changes.outcomes == [outcome]
    assert bool(rows(changes)) is (outcome is Outcome.WRITTEN)


@pytest.mark.parametrize(
    ("before", "noted"),
    [
        pytest.param([], at(100), id="never stored"),
        pytest.param([missing(asked=50)], at(100), id="not found before"),
        pytest.param([missing(asked=200)], None, id="not found since"),
        pytest.param([found(asked=50)], None, id="live: the row says it"),
        pytest.param([found(asked=50), missing(asked=60)], at(100), id="removed before"),
        pytest.param([found(asked=50), missing(asked=200)], None, id="removed since"),
    ],
)
def test_what_is_not_found_is_noted_where_no_row_can_tell(
    before: list[Fetched], noted: datetime | None
) -> None:
    changes = decide([missing(asked=100)], after(*before))
    assert changes.outcomes == [Outcome.MISSING]
    assert changes.not_found == ({} if noted is None else {ONE: noted})


def test_first_seen_stays_and_synced_at_never_goes_back() -> None:
    changes = decide([found(updated=1, asked=50)], after(found(asked=100)))
    row = changes.connections[ONE]
    assert (row.first_seen_at, row.synced_at) == (at(100), at(100))


def test_a_type_that_a_newer_answer_no_longer_has_is_marked_removed_once() -> None:
    stored = after(found(a_type("A"), a_type("B")))
    changes = decide([found(a_type("A"), updated=1, asked=200)], stored)
    assert [(key, row.removed_at) for key, row in changes.types.items()] == [((ONE, "B"), at(200))]
    again = decide([found(a_type("A"), updated=1, asked=300)], stored)
    assert again.outcomes == [Outcome.UNCHANGED]


def test_a_type_that_comes_back_is_no_longer_removed() -> None:
    stored = after(found(a_type("A"), a_type("B")), found(a_type("A"), updated=1, asked=200))
    changes = decide([found(a_type("A"), a_type("B"), updated=2, asked=300)], stored)
    assert changes.types[ONE, "B"].removed_at is None


def test_a_missing_connection_is_marked_removed_and_keeps_its_values() -> None:
    stored = after(found())
    changes = decide([missing(asked=200)], stored)
    assert changes.outcomes == [Outcome.MISSING]
    row = changes.connections[ONE]
    assert (row.removed_at, row.arn, row.updated_at) == (at(200), "arn:1", at(0))
    assert decide([missing(asked=300)], stored).connections == {}


def test_a_missing_connection_that_was_never_here_writes_nothing() -> None:
    changes = decide([missing()], Stored())
    assert changes.outcomes == [Outcome.MISSING]
    assert rows(changes) == 0


def test_a_connection_that_comes_back_is_no_longer_removed() -> None:
    stored = after(found(), missing(asked=200))
    changes = decide([found(asked=300)], stored)
    assert changes.outcomes == [Outcome.WRITTEN]
    assert changes.connections[ONE].removed_at is None


def test_an_answer_from_before_the_removal_does_not_undo_it() -> None:
    stored = after(found(), missing(asked=200))
    assert decide([found(asked=150)], stored).outcomes == [Outcome.STALE]


def test_the_same_connection_twice_in_a_batch_is_judged_in_turn() -> None:
    changes = decide([found(), found(asked=101), found(updated=1), missing(asked=300)], Stored())
    assert changes.outcomes == [Outcome.WRITTEN, Outcome.UNCHANGED, Outcome.WRITTEN, Outcome.MISSING]
    assert changes.connections[ONE].removed_at == at(300)


@pytest.mark.parametrize("order", [*permutations(range(3))])
def test_the_connection_with_the_greatest_time_and_id_names_the_participant(order: tuple[int, ...]) -> None:
    answers = [
        found(a_type(named="old"), id=TWO, updated=1),
        found(a_type(named="less"), id=ONE, updated=2),
        found(a_type(named="decides"), id=TWO, updated=2),
    ]
    one_batch = Stored()
    decide([answers[index] for index in order], one_batch)
    one_by_one = after(*(answers[index] for index in order))
    for stored in (one_batch, one_by_one):
        named = stored.participants["PartnerProfile", "p1"]
        assert (named.name, named.connection_id, named.updated_at) == ("decides", TWO, at(2))


def test_two_types_that_name_one_participant_differently_always_give_the_same_name() -> None:
    stored = after(found(a_type("A", named="first"), a_type("B", named="last")))
    assert stored.participants["PartnerProfile", "p1"].name == "last"
    again = decide([found(a_type("A", named="first"), a_type("B", named="last"), asked=200)], stored)
    assert again.outcomes == [Outcome.UNCHANGED]


def nobody(*, updated: float = 0, asked: float = 100, status: str = "ACTIVE") -> Found:
    """What a run without personal data makes of the answer that `found` is."""
    return found(
        replace(a_type(status=status), inviter_email=None, inviter_name=None), updated=updated, asked=asked
    )


def personal(*answers: Fetched) -> Stored:
    """What is stored after `answers`, before a run that finds in it who invited."""
    stored = after(*answers)
    stored.personal.add(ONE)
    return stored


@pytest.mark.parametrize(
    ("answer", "outcome", "touched", "versions"),
    [
        pytest.param(nobody(asked=200), Outcome.WRITTEN, (1, 0, 0), 0, id="the same: erased, no new version"),
        pytest.param(
            nobody(asked=200, updated=1, status="CANCELED"), Outcome.WRITTEN, (1, 1, 1), 1, id="changed too"
        ),
        pytest.param(missing(asked=200), Outcome.MISSING, (1, 0, 0), 1, id="not there any more"),
    ],
)
def test_who_invited_is_erased_from_what_is_fetched(
    answer: Fetched, outcome: Outcome, touched: tuple[int, int, int], versions: int
) -> None:
    stored = personal(found())
    changes = decide([answer], stored)
    assert (changes.outcomes, changes.erased) == ([outcome], {ONE})
    assert (len(changes.connections), len(changes.types), len(changes.participants)) == touched
    # No new version copies it from the one before.
    written = [version for each in changes.versions.values() for version in each]
    assert len(written) == versions
    assert not any(version.inviter_email or version.inviter_name for version in written)
    again = decide([answer], stored)
    assert again.outcomes == [Outcome.UNCHANGED if isinstance(answer, Found) else Outcome.MISSING]
    assert (rows(again), again.erased) == (0, set())


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(nobody(asked=50), id="asked earlier"),
        pytest.param(nobody(updated=-1, asked=200), id="an older version"),
        pytest.param(missing(asked=50), id="not found, asked earlier"),
    ],
)
def test_a_stale_answer_erases_nothing(answer: Fetched) -> None:
    changes = decide([answer], personal(found()))
    assert (changes.outcomes, rows(changes), changes.erased) == ([Outcome.STALE], 0, set())


def test_of_what_is_removed_already_who_invited_is_erased_too() -> None:
    changes = decide([missing(asked=300)], personal(found(), missing(asked=200)))
    assert (changes.outcomes, rows(changes), changes.erased) == ([Outcome.MISSING], 0, {ONE})
