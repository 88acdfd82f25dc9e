"""What must be true, whatever the input, the faults and the crashes; written once, for all who try to
break it.

`Told` remembers what the API answered; the functions compare the database with it. All of them look at what
is committed, over a connection of their own, and raise `AssertionError`.

1. Each ID that was read is in exactly one outcome, or still in the queue, or after the checkpoint.
2. The tables equal the newest answer that was given for each connection, and no older answer ever won.
3. A message is deleted after the commit that settles it.
4. The history of each type is without gaps, has one open version, and holds nothing that was never told.
5. The rows in `sync_run` add up.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from psycopg import Connection

from syncer.outcomes import Outcome

Answer = Mapping[str, Any]
Rows = list[tuple[Any, ...]]

NEVER = object()

# What a writer must never do, noted by the database itself: it sees every row, however short its life.
# `synced_at` and the participants' names may not go back either.
WATCHED = """
    CREATE TABLE older_won (what text, id text);
    CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO older_won VALUES (TG_TABLE_NAME, OLD.id);
        RETURN NEW;
    END $$;
    CREATE TRIGGER watched BEFORE UPDATE ON connection FOR EACH ROW
        WHEN (NEW.updated_at < OLD.updated_at OR NEW.synced_at < OLD.synced_at
              OR NEW.first_seen_at <> OLD.first_seen_at) EXECUTE FUNCTION note();
    CREATE TRIGGER kept BEFORE DELETE ON connection FOR EACH ROW EXECUTE FUNCTION note();
    CREATE TRIGGER watched BEFORE UPDATE ON participant FOR EACH ROW
        WHEN ((NEW.updated_at, NEW.connection_id COLLATE "C")
              < (OLD.updated_at, OLD.connection_id COLLATE "C")) EXECUTE FUNCTION note();
"""

DETAIL = (
    "status", "created_at", "inviter_email", "inviter_name", "canceled_at", "canceled_by", "participant_kind",
    "participant_id",
)  # fmt: skip

OUTCOMES = ", ".join(outcome.value for outcome in Outcome)
SUM = " + ".join(outcome.value for outcome in Outcome)


class Told:
    """What the API answered for each ID, in the order of its answers; None: there is no such connection."""

    def __init__(self) -> None:
        self._answers: dict[str, list[Answer | None]] = {}

    def tell(self, identifier: str, answer: Answer | None) -> None:
        self._answers.setdefault(identifier, []).append(answer)

    def __contains__(self, identifier: str) -> bool:
        return identifier in self._answers

    def __iter__(self) -> Iterator[str]:
        return iter(self._answers)

    def found(self, identifier: str) -> list[Answer]:
        """Each answer that had the connection."""
        return [answer for answer in self._answers.get(identifier, ()) if answer is not None]

    def missed(self, identifier: str) -> bool:
        """Whether it was ever answered that there is no such connection."""
        return None in self._answers.get(identifier, ())

    def newest(self, identifier: str) -> Answer | None:
        """The answer that must win: the greatest `UpdatedAt`, of equal ones the last.

        "No such connection" counts as of now, until the connection is told of again, and not as it was
        before.
        """
        newest: Answer | None = None
        gone = False
        for answer in self._answers[identifier]:
            if answer is None:
                gone = True
            elif newest is None or moment(answer) >= moment(newest):
                newest, gone = answer, False
        return None if gone else newest


def moment(answer: Answer) -> datetime:
    return _time(answer["UpdatedAt"])


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def _optional_time(text: str | None) -> datetime | None:
    return None if text is None else _time(text)


def connection_row(answer: Answer) -> tuple[Any, ...]:
    """Of `answer`, what the row of `connection` says."""
    return answer["Arn"], answer["OtherParticipantAccountId"], moment(answer)


def type_rows(answer: Answer) -> dict[str, tuple[Any, ...]]:
    """Of `answer`, what the rows of `connection_type` say (see DETAIL), and the participant's name."""
    rows = {}
    for name, detail in answer["ConnectionTypes"].items():
        ((kind, content),) = detail["OtherParticipant"].items()
        rows[name] = (
            detail["Status"], _time(detail["CreatedAt"]),
            detail.get("InviterEmail"), detail.get("InviterName"),
            _optional_time(detail.get("CanceledAt")), detail.get("CanceledBy"),
            kind, content.get("Id", answer["OtherParticipantAccountId"]), content.get("Name"),
        )  # fmt: skip
    return rows


def _rows(database: Connection[Any], query: str, *parameters: object) -> Rows:
    return database.execute(query.encode(), parameters).fetchall()


def settled(database: Connection[Any], identifiers: Iterable[str]) -> set[str]:
    """Those of `identifiers` that have an outcome which leaves a trace: a row, or a recorded failure."""
    wanted = [*identifiers]
    found = _rows(
        database,
        """SELECT id FROM connection WHERE id = ANY(%s)
           UNION SELECT identifier FROM sync_failure WHERE identifier = ANY(%s)""",
        wanted, wanted,
    )  # fmt: skip
    return {identifier for (identifier,) in found}


def assert_deletable(
    database: Connection[Any], told: Told, identifiers: Sequence[str], since: Mapping[str, Answer | None]
) -> None:
    """A message is about to be deleted: a commit has settled all its IDs.

    since: the connections as they were when the message was sent; what is stored is no older.
    """
    rows = {
        identifier: (updated_at, removed_at)
        for identifier, updated_at, removed_at in _rows(
            database, "SELECT id, updated_at, removed_at FROM connection WHERE id = ANY(%s)", [*identifiers]
        )
    }
    recorded = "SELECT identifier FROM sync_failure WHERE identifier = ANY(%s)"
    failures = {identifier for (identifier,) in _rows(database, recorded, [*identifiers])}
    for identifier in identifiers:
        known = since.get(identifier)
        if identifier in failures:
            continue
        if identifier not in rows:
            assert told.missed(identifier), f"{identifier} is deleted before its commit"
        elif known is not None:
            assert rows[identifier][0] >= moment(known), f"{identifier} is deleted before it is up to date"
        elif identifier in since:
            back = told.newest(identifier) is not None
            assert back or rows[identifier][1], f"{identifier} is deleted before its removal"


def assert_sound(database: Connection[Any], told: Told) -> None:
    """What holds at any moment, however the last process ended."""
    assert _rows(database, "SELECT * FROM older_won") == []
    # Whoever died has read more than it settled; nobody has settled more than it read.
    assert _rows(database, f"SELECT id, read, {OUTCOMES} FROM sync_run WHERE read < {SUM}") == []
    partial = """
        SELECT id FROM connection AS c
        WHERE NOT EXISTS (SELECT FROM connection_type AS t WHERE t.connection_id = c.id)
    """
    assert _rows(database, partial) == []
    for identifier, *row in _rows(
        database, "SELECT id, arn, other_participant_account_id, updated_at FROM connection"
    ):
        assert tuple(row) in {connection_row(answer) for answer in told.found(identifier)}, identifier
    assert_history(database, told)


def assert_checkpoint(database: Connection[Any], told: Told, identifiers: Sequence[str]) -> None:
    """Whatever the checkpoint claims is settled."""
    (checkpoint,) = _rows(database, "SELECT coalesce(max(checkpoint), 0) FROM sync_run")[0]
    assert checkpoint <= len(identifiers)
    below = set(identifiers[:checkpoint])
    for identifier in below - settled(database, below):
        assert told.missed(identifier), f"{identifier} is below the checkpoint, and is not there"


def assert_tables(database: Connection[Any], told: Told) -> None:
    """Every connection is as the newest answer has it. To be called when everything is settled."""
    stored = {
        identifier: (tuple(row), removed_at)
        for identifier, removed_at, *row in _rows(
            database,
            "SELECT id, removed_at, arn, other_participant_account_id, updated_at FROM connection",
        )
    }
    types: dict[str, dict[str, tuple[Any, ...]]] = {}
    for identifier, name, *values in _rows(
        database,
        f"""SELECT t.connection_id, t.type, t.{", t.".join(DETAIL)}, t.removed_at
            FROM connection_type AS t""",
    ):
        types.setdefault(identifier, {})[name] = tuple(values)
    assert set(stored) <= set(told), "a connection is stored that nobody told of"
    for identifier in told:
        newest = told.newest(identifier)
        found = stored.get(identifier)
        if newest is None:
            assert found is None or found[1], f"{identifier} is gone, but not marked as removed"
            continue
        expected = (connection_row(newest), None)
        assert found == expected, f"{identifier} is {found}, not {expected}"
        types_told = type_rows(newest)
        live = {name: row[:-1] for name, row in types[identifier].items() if row[-1] is None}
        assert live == {name: row[:-1] for name, row in types_told.items()}, identifier
        former = {
            (name, row[:-1]) for answer in told.found(identifier) for name, row in type_rows(answer).items()
        }
        for name, row in types[identifier].items():
            assert (name, row[:-1]) in former, f"{identifier} {name} was never told"
    _assert_participants(database, told)


def _assert_participants(database: Connection[Any], told: Told) -> None:
    """Each is named by the greatest of the claims that are stored, and by a claim that was made."""
    made: dict[tuple[str, str], set[tuple[Any, ...]]] = {}
    least: dict[tuple[str, str], tuple[Any, ...]] = {}
    for identifier in told:
        newest = told.newest(identifier)
        for answer in told.found(identifier):
            claims: dict[tuple[str, str], tuple[Any, ...]] = {}
            for _, row in sorted(type_rows(answer).items()):
                claims[row[6], row[7]] = (moment(answer), identifier, row[8])  # of two types the last
            for key, claim in claims.items():
                made.setdefault(key, set()).add(claim)
                if answer is newest:
                    least[key] = max(least.get(key, claim), claim, key=lambda each: each[:2])
    stored = {
        (kind, id): tuple(claim)
        for kind, id, *claim in _rows(
            database, "SELECT kind, id, updated_at, connection_id, name FROM participant"
        )
    }
    for key, claim in stored.items():
        assert claim in made[key], f"{key} is named by nobody"
    for key, claim in least.items():
        assert stored[key][:2] >= claim[:2], f"{key} is named by an older answer"


def assert_history(database: Connection[Any], told: Told) -> None:
    """No gap, no overlap, one open version per type, which says what the type's row says; nothing made up."""
    broken = """
        SELECT connection_id, type FROM (
            SELECT *, lead(valid_from) OVER versions AS next
            FROM connection_type_history
            WINDOW versions AS (PARTITION BY account_id, catalog, connection_id, type ORDER BY valid_from)
        ) AS version
        WHERE valid_to <= valid_from OR valid_to IS DISTINCT FROM next
    """
    assert _rows(database, broken) == []
    columns = ", ".join(DETAIL)
    apart = f"""
        (SELECT t.connection_id, t.type, {columns}, p.name,
                (t.removed_at IS NULL AND c.removed_at IS NULL) AS there
         FROM (SELECT account_id, catalog, connection_id, type, removed_at, {columns}
               FROM connection_type) AS t
         JOIN (SELECT account_id, catalog, id, removed_at FROM connection) AS c
           ON (c.account_id, c.catalog, c.id) = (t.account_id, t.catalog, t.connection_id)
         CROSS JOIN LATERAL (
             SELECT participant_name AS name FROM connection_type_history AS h
             WHERE (h.account_id, h.catalog, h.connection_id, h.type)
                   = (t.account_id, t.catalog, t.connection_id, t.type) AND valid_to IS NULL
         ) AS p)
        EXCEPT
        SELECT connection_id, type, {columns}, participant_name, removed_at IS NULL
        FROM connection_type_history WHERE valid_to IS NULL
    """
    assert _rows(database, apart) == []
    unheard = """
        SELECT connection_id, type FROM connection_type AS t
        WHERE NOT EXISTS (
            SELECT FROM connection_type_history AS h
            WHERE (h.account_id, h.catalog, h.connection_id, h.type)
                  = (t.account_id, t.catalog, t.connection_id, t.type) AND h.valid_to IS NULL
        )
    """
    assert _rows(database, unheard) == []
    versions: dict[tuple[str, str], Rows] = {}
    for identifier, name, *values in _rows(
        database,
        f"""SELECT connection_id, type, {columns}, participant_name, removed_at
            FROM connection_type_history ORDER BY connection_id, type, valid_from""",
    ):
        versions.setdefault((identifier, name), []).append(tuple(values))
    for (identifier, name), each in versions.items():
        # By time, the answers that had this type; the versions must follow each other as they do.
        answers = sorted(told.found(identifier), key=moment)
        rows = [type_rows(answer)[name] for answer in answers if name in answer["ConnectionTypes"]]
        at = 0
        for version in each:
            *row, removed_at = version
            if removed_at is None:
                assert tuple(row) in rows[at:], (
                    f"{identifier} {name} has a version that was not told, or late"
                )
                at = rows.index(tuple(row), at)


def assert_runs(database: Connection[Any], *, everything_written_once: bool) -> None:
    """The runs' rows add up, and none is left open.

    everything_written_once: no connection has changed while it was synced. Then whatever the crashes, the
    runs together have written each connection once: counts and rows are of one transaction.
    """
    finished = "status NOT IN ('running', 'interrupted')"
    assert _rows(database, "SELECT id FROM sync_run WHERE status = 'running'") == []
    assert _rows(database, f"SELECT id FROM sync_run WHERE {finished} AND read <> {SUM}") == []
    assert _rows(database, f"SELECT id FROM sync_run WHERE {finished} AND finished_at IS NULL") == []
    if everything_written_once:
        ((written, stored),) = _rows(
            database, "SELECT sum(written), (SELECT count(*) FROM connection) FROM sync_run"
        )
        assert written == stored, f"{written} were written, {stored} are there"
