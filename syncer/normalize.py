"""From the API's answer to rows: a pure function.

What AWS may extend (types, statuses, kinds of participant) passes through as text and is counted as drift.
What the rows cannot do without, and is missing or of another shape, is refused by name.
"""

from collections.abc import Mapping
from datetime import datetime

from syncer.answers import Connection, ConnectionType
from syncer.storable import storable
from syncer.times import timestamp

KNOWN_TYPES = frozenset({"OPPORTUNITY_COLLABORATION", "SUBSIDIARY"})
KNOWN_STATUSES = frozenset({"ACTIVE", "CANCELED"})
KNOWN_KINDS = frozenset({"PartnerProfile", "SellerProfile", "Account"})


class Unreadable(Exception):
    """The answer lacks something a row cannot do without; the message names it, never its value."""


def normalized(
    answer: Mapping[str, object], *, identifier: str, catalog: str, personal_data: bool = True
) -> Connection:
    """The connection in `answer`, GetConnection's response as JSON has it.

    personal_data: False leaves away who invited: from here on nobody knows.

    Raises `Unreadable` when a required member is missing or of another type, or when the answer is about
    another connection than was asked for.
    """
    reader = _Reader(personal_data=personal_data)
    if reader.text(answer, "Id") != identifier:
        raise Unreadable("Id is not the one that was asked for")
    if reader.text(answer, "Catalog").lower() != catalog.lower():
        raise Unreadable("Catalog is not the one that was asked for")
    other_account = reader.text(answer, "OtherParticipantAccountId")
    types = _mapping(answer, "ConnectionTypes")
    return Connection(
        id=identifier,
        arn=reader.text(answer, "Arn"),
        other_participant_account_id=other_account,
        updated_at=_time(answer, "UpdatedAt"),
        types=_sorted_once(
            [_type(reader, name, _mapping(types, name, "ConnectionTypes."), other_account) for name in types]
        ),
        drift=tuple(reader.drift),
    )


class _Reader:
    """Takes text out of the answer, and remembers what was strange about it."""

    def __init__(self, *, personal_data: bool) -> None:
        self.drift: list[str] = []
        self._personal_data = personal_data

    def storable(self, value: str, name: str) -> str:
        clean = storable(value)
        if clean != value:
            self.drift.append(f"unstorable characters in {name}")
        return clean

    def text(self, source: Mapping[str, object], name: str, path: str = "") -> str:
        value = source.get(name)
        if value is None:
            raise Unreadable(f"{path}{name} is missing")
        if not isinstance(value, str):
            # A number would have lost its leading zeros already.
            raise Unreadable(f"{path}{name} is not text")
        return self.storable(value, name)

    def optional_text(self, source: Mapping[str, object], name: str, path: str) -> str | None:
        return None if source.get(name) is None else self.text(source, name, path)

    def personal_text(self, source: Mapping[str, object], name: str, path: str) -> str | None:
        value = self.optional_text(source, name, path)
        return value if self._personal_data else None

    def known(self, value: str, known: frozenset[str], what: str) -> str:
        if value not in known:
            self.drift.append(f"{what} {value[:80]}")
        return value


def _type(reader: _Reader, name: str, detail: Mapping[str, object], other_account: str) -> ConnectionType:
    path = f"ConnectionTypes.{name}."
    kind, participant_id, participant_name = _participant(
        reader, _mapping(detail, "OtherParticipant", path), f"{path}OtherParticipant.", other_account
    )
    for required in ("InviterEmail", "InviterName"):
        # Required by the API's reference, but nothing hangs on them: a connection is not lost over one.
        if detail.get(required) is None:
            reader.drift.append(f"no {required}")
    return ConnectionType(
        type=reader.known(reader.storable(name, "type"), KNOWN_TYPES, "type"),
        status=reader.known(reader.text(detail, "Status", path), KNOWN_STATUSES, "status"),
        created_at=_time(detail, "CreatedAt", path),
        inviter_email=reader.personal_text(detail, "InviterEmail", path),
        inviter_name=reader.personal_text(detail, "InviterName", path),
        canceled_at=None if detail.get("CanceledAt") is None else _time(detail, "CanceledAt", path),
        canceled_by=reader.optional_text(detail, "CanceledBy", path),
        participant_kind=kind,
        participant_id=participant_id,
        participant_name=participant_name,
    )


def _participant(
    reader: _Reader, union: Mapping[str, object], path: str, other_account: str
) -> tuple[str, str, str | None]:
    """Kind, ID and name of the other participant, a tagged union: one member, and its name is the kind."""
    # `__type` can stand beside the member.
    members = [name for name, content in union.items() if name != "__type" and content is not None]
    if len(members) != 1:
        raise Unreadable(f"{path[:-1]} has {len(members)} members, not one")
    kind = reader.known(reader.storable(members[0], "participant"), KNOWN_KINDS, "participant")
    if kind not in KNOWN_KINDS:
        # What the members of a kind mean that nobody knows yet is not guessed, its ID and name least of all.
        return kind, other_account, None
    content = _mapping(union, kind, path)
    path = f"{path}{kind}."
    if kind == "Account":  # it has no ID of its own here
        return kind, other_account, reader.optional_text(content, "Name", path)
    return kind, reader.text(content, "Id", path), reader.text(content, "Name", path)


def _sorted_once(types: list[ConnectionType]) -> tuple[ConnectionType, ...]:
    """By type; of two that became one when unstorable characters were replaced, the last."""
    return tuple(sorted({each.type: each for each in types}.values(), key=lambda each: each.type))


def _mapping(source: Mapping[str, object], name: str, path: str = "") -> Mapping[str, object]:
    value = source.get(name)
    if value is None:
        raise Unreadable(f"{path}{name} is missing")
    if not isinstance(value, Mapping):
        raise Unreadable(f"{path}{name} is not a structure")
    return value


def _time(source: Mapping[str, object], name: str, path: str = "") -> datetime:
    value = source.get(name)
    if value is None:
        raise Unreadable(f"{path}{name} is missing")
    try:
        return timestamp(value)
    except ValueError:
        raise Unreadable(f"{path}{name} is not a time") from None
