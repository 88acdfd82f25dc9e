"""What a batch of answers changes in what is stored: decided here, purely; the writer only carries it out.

Which of two answers about a connection is the newer one: the greater `updated_at`; at equal times the one
that was asked for later. "No such connection" carries no `updated_at` and counts as the stored one's; what
is not live is brought back only by what was asked for since it was last not found.

Each change of a connection type is a version in its history too. A version ends where the next one begins,
and exactly one is open; a type that is removed has an open version that says so.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from syncer.answers import Connection, ConnectionType, Fetched, Found, Missing
from syncer.outcomes import Outcome

# The database's own grain of time.
SHORTEST_VERSION = timedelta(microseconds=1)


class ConnectionRow(NamedTuple):
    """A row of `connection`, without the account and the catalog, which are the run's."""

    id: str
    arn: str
    other_participant_account_id: str
    updated_at: datetime
    first_seen_at: datetime
    synced_at: datetime
    removed_at: datetime | None


class TypeRow(NamedTuple):
    """A row of `connection_type`, likewise."""

    connection_id: str
    type: str
    status: str
    created_at: datetime
    inviter_email: str | None
    inviter_name: str | None
    canceled_at: datetime | None
    canceled_by: str | None
    participant_kind: str
    participant_id: str
    removed_at: datetime | None


class ParticipantRow(NamedTuple):
    """A row of `participant`, likewise."""

    kind: str
    id: str
    name: str | None
    connection_id: str
    updated_at: datetime


class VersionRow(NamedTuple):
    """A row of `connection_type_history`, likewise: a type as it was from `valid_from` on.

    participant_name: as this very answer gave it. removed_at: set when type or connection are removed.
    previous_…: what the version before said; all None in the first one.
    """

    connection_id: str
    type: str
    status: str
    created_at: datetime
    inviter_email: str | None
    inviter_name: str | None
    canceled_at: datetime | None
    canceled_by: str | None
    participant_kind: str
    participant_id: str
    participant_name: str | None
    removed_at: datetime | None
    valid_from: datetime
    valid_to: datetime | None = None
    previous_status: str | None = None
    previous_participant_name: str | None = None
    previous_removed_at: datetime | None = None

    @property
    def content(self) -> tuple[object, ...]:
        """What a version must differ in to be one of its own."""
        return self[:12]


@dataclass(frozen=True, slots=True)
class Stored:
    """What the database has of a batch's connections and participants.

    versions: the open ones. not_found: when the API last had no such connection, of those that are not live.
    personal: connections of which who invited is stored, be it in the history, and should not be.
    """

    connections: dict[str, ConnectionRow] = field(default_factory=dict)
    types: dict[str, dict[str, TypeRow]] = field(default_factory=dict)
    versions: dict[tuple[str, str], VersionRow] = field(default_factory=dict)
    participants: dict[tuple[str, str], ParticipantRow] = field(default_factory=dict)
    not_found: dict[str, datetime] = field(default_factory=dict)
    personal: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Changes:
    """The rows to insert or update, each key once, and the outcome of each answer, in the answers' order.

    versions: new ones, per type in the order of their time; the last of each is open. ended: when the
    versions end that were open in the database, per type. not_found: connections that are not live, and that
    the API does not have either, and when it was asked. held: connections that the API no longer has,
    whose removal is held back, and when it was asked. erased: connections of which nothing that is stored,
    old versions among it, may tell any longer who invited.
    """

    outcomes: list[Outcome] = field(default_factory=list)
    connections: dict[str, ConnectionRow] = field(default_factory=dict)
    types: dict[tuple[str, str], TypeRow] = field(default_factory=dict)
    versions: dict[tuple[str, str], list[VersionRow]] = field(default_factory=dict)
    ended: dict[tuple[str, str], datetime] = field(default_factory=dict)
    not_found: dict[str, datetime] = field(default_factory=dict)
    held: dict[str, datetime] = field(default_factory=dict)
    participants: dict[tuple[str, str], ParticipantRow] = field(default_factory=dict)
    erased: set[str] = field(default_factory=set)


def decide(answers: Iterable[Fetched], stored: Stored, *, hold: bool = False) -> Changes:
    """The changes that `answers`, one after the other, make to `stored`.

    hold: hold removals back. Their outcome is `failed` then, until all of them are known and decided about.

    `stored` becomes the state after the changes: an ID that is answered twice in a batch is judged
    against its first answer.
    """
    changes = Changes()
    for answer in answers:
        if isinstance(answer, Missing):
            outcome = _missing(answer, stored, changes, hold=hold)
        else:
            outcome = _found(answer, stored, changes)
        changes.outcomes.append(outcome)
    return changes


def _missing(answer: Missing, stored: Stored, changes: Changes, *, hold: bool) -> Outcome:
    known = stored.connections.get(answer.item.identifier)
    if known is not None and answer.asked_at < known.synced_at and known.removed_at is None:
        return Outcome.STALE
    _erase_inviters(answer.item.identifier, stored, changes)
    if known is None or known.removed_at is not None:
        last = _last_not_found(answer.item.identifier, stored)
        if last is None or last < answer.asked_at:
            stored.not_found[answer.item.identifier] = answer.asked_at
            changes.not_found[answer.item.identifier] = answer.asked_at
        return Outcome.MISSING
    if hold:
        changes.held[known.id] = answer.asked_at
        return Outcome.FAILED
    _put(known._replace(removed_at=answer.asked_at, synced_at=answer.asked_at), stored, changes)
    for row in stored.types.get(known.id, {}).values():
        version = stored.versions.get((known.id, row.type))
        if version is not None and version.removed_at is None:
            gone = version._replace(removed_at=answer.asked_at)
            _open(gone, answer.asked_at, answer.asked_at, stored, changes)
    return Outcome.MISSING


def _found(answer: Found, stored: Stored, changes: Changes) -> Outcome:
    connection, asked_at = answer.connection, answer.asked_at
    known = stored.connections.get(connection.id)
    if known is not None and connection.updated_at < known.updated_at:
        return Outcome.STALE
    if known is None or known.removed_at is not None:
        last = _last_not_found(connection.id, stored)
        late = last is not None and asked_at < last
    else:
        late = connection.updated_at == known.updated_at and asked_at < known.synced_at
    erased = not late and _erase_inviters(connection.id, stored, changes)
    rows = [_type_row(connection.id, each) for each in connection.types]
    types = _changed_types(rows, stored.types.get(connection.id, {}), asked_at)
    versions = _changed_versions(connection, rows, types, stored)
    participants = _changed_participants(connection, stored)
    values = connection.id, connection.arn, connection.other_participant_account_id, connection.updated_at
    same = known is not None and known[:4] == values and known.removed_at is None
    if same and not types and not versions and not participants and not erased:
        return Outcome.UNCHANGED
    if late:
        return Outcome.STALE
    if known is None:
        row = ConnectionRow(*values, asked_at, asked_at, None)
    else:
        row = ConnectionRow(*values, known.first_seen_at, max(known.synced_at, asked_at), None)
    _put(row, stored, changes)
    for each in types:
        stored.types.setdefault(connection.id, {})[each.type] = each
        changes.types[each.connection_id, each.type] = each
    for version in versions:
        _open(version, connection.updated_at, asked_at, stored, changes)
    for each_participant in participants:
        key = each_participant.kind, each_participant.id
        stored.participants[key] = changes.participants[key] = each_participant
    return Outcome.WRITTEN


def _last_not_found(id: str, stored: Stored) -> datetime | None:
    """When a connection that is not live was last not found; None: never, or long ago."""
    known = stored.connections.get(id)
    times = [stored.not_found.get(id), known and known.removed_at]
    return max((each for each in times if each is not None), default=None)


def _erase_inviters(id: str, stored: Stored, changes: Changes) -> bool:
    """Have who invited erased from what is stored of the connection; whether there was anything to erase.

    Done to what is stored rather than by a new version: that would keep it in the one before.
    """
    if id not in stored.personal:
        return False
    stored.personal.remove(id)
    changes.erased.add(id)
    types = stored.types.get(id, {})
    for name, row in types.items():
        types[name] = row._replace(inviter_email=None, inviter_name=None)
        version = stored.versions.get((id, name))
        if version is not None:
            stored.versions[id, name] = version._replace(inviter_email=None, inviter_name=None)
    return True


def _put(row: ConnectionRow, stored: Stored, changes: Changes) -> None:
    stored.connections[row.id] = changes.connections[row.id] = row


def _open(version: VersionRow, as_of: datetime, seen_at: datetime, stored: Stored, changes: Changes) -> None:
    """Open `version` from AWS's time `as_of` on, where that is later than the version before.

    Else from when it was seen; in any case later than the version before, which would be empty otherwise.
    """
    key = version.connection_id, version.type
    before = stored.versions.get(key)
    if before is not None and as_of <= before.valid_from:
        as_of = max(seen_at, before.valid_from + SHORTEST_VERSION)
    opened = changes.versions.setdefault(key, [])
    if opened:
        opened[-1] = opened[-1]._replace(valid_to=as_of)
    elif before is not None:
        changes.ended[key] = as_of
    if before is not None:
        version = version._replace(
            valid_from=as_of,
            previous_status=before.status,
            previous_participant_name=before.participant_name,
            previous_removed_at=before.removed_at,
        )
    stored.versions[key] = version
    opened.append(version)


def _changed_versions(
    connection: Connection, rows: list[TypeRow], changed_types: list[TypeRow], stored: Stored
) -> list[VersionRow]:
    """The versions that differ from the open ones; `valid_from` is still to be settled."""
    names = {each.type: each.participant_name for each in connection.types}
    gone = [row for row in changed_types if row.type not in names]
    changed = []
    for row in [*rows, *gone]:
        before = stored.versions.get((connection.id, row.type))
        name = names.get(row.type, before and before.participant_name)
        version = VersionRow(*row[:10], name, row.removed_at, connection.updated_at)
        if before is None or version.content != before.content:
            changed.append(version)
    return changed


def _changed_types(rows: list[TypeRow], known: dict[str, TypeRow], asked_at: datetime) -> list[TypeRow]:
    answered = {row.type for row in rows}
    changed = [row for row in rows if known.get(row.type) != row]
    gone = [
        row._replace(removed_at=asked_at)
        for row in known.values()
        if row.type not in answered and row.removed_at is None
    ]
    return changed + gone


def _type_row(connection_id: str, each: ConnectionType) -> TypeRow:
    return TypeRow(
        connection_id,
        each.type,
        each.status,
        each.created_at,
        each.inviter_email,
        each.inviter_name,
        each.canceled_at,
        each.canceled_by,
        each.participant_kind,
        each.participant_id,
        None,
    )


def _changed_participants(connection: Connection, stored: Stored) -> list[ParticipantRow]:
    """The participants whose name this connection decides, where that changes something.

    Of two types that give one participant different names the last by type counts, whatever their order
    in the answer.
    """
    changed: dict[tuple[str, str], ParticipantRow] = {}
    for each in connection.types:
        key = each.participant_kind, each.participant_id
        row = ParticipantRow(*key, each.participant_name, connection.id, connection.updated_at)
        known = stored.participants.get(key)
        if known is None or (
            row != known and (row.updated_at, row.connection_id) >= (known.updated_at, known.connection_id)
        ):
            changed[key] = row
        else:
            changed.pop(key, None)
    return list(changed.values())
