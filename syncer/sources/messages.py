"""What a message's body means: the connection IDs in it, read as what it is, never by searching the text.

A bare ID or ARN; a JSON string, object or list of these; an event of Partner Central; any of it in an SNS
envelope. Source of the events: the Partner Central developer guide (EventBridge).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from syncer.identifiers import CONNECTION_ARN, connection_id

EVENTS = "aws.partnercentral-account"
# IDs in one message.
MOST_IDS = 100
# Characters of a body: an event may have a quarter of a mebibyte. SQS itself allows a whole one.
LONGEST_BODY = 256 * 1024
# Longer than any ARN of a connection; what is longer is something else, and need not be kept.
LONGEST_TEXT = 200
KEYS = ("connection_id", "id", "identifier", "Identifier", "arn")
CATALOGS = ("catalog", "Catalog")


@dataclass(frozen=True, slots=True)
class Ids:
    """Connection IDs, or texts that should have been: the item that each becomes will tell."""

    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """The message is for the worker of another catalog."""

    catalog: str


@dataclass(frozen=True, slots=True)
class Ignored:
    """An event that names no connection. kind: its detail type."""

    kind: str


@dataclass(frozen=True, slots=True)
class Unreadable:
    """No connection ID is to be had from the body. problem: why, in words that repeat none of it."""

    problem: str


Meaning = Ids | Elsewhere | Ignored | Unreadable


class _NotUnderstood(Exception):
    pass


def meaning(body: str, catalog: str) -> Meaning:
    """What `body` is to a worker of `catalog`."""
    if len(body) > LONGEST_BODY:
        return Unreadable(f"a body of {len(body):,} characters; {LONGEST_BODY:,} are allowed")
    try:
        return _document(body, catalog, enveloped=False)
    except _NotUnderstood as error:
        return Unreadable(str(error))


def _document(body: str, catalog: str, *, enveloped: bool) -> Meaning:
    text = body.strip().removeprefix("\ufeff")
    if not text.startswith(("{", "[", '"')):
        if len(text) > LONGEST_TEXT or len(text.splitlines()) > 1:
            raise _NotUnderstood("neither a connection ID nor JSON")
        return _ids([(text, None)], catalog)
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise _NotUnderstood("the body begins as JSON, but is none") from None
    if isinstance(document, dict):
        if document.get("Type") == "Notification" and isinstance(document.get("Message"), str):
            if enveloped:
                raise _NotUnderstood("an SNS envelope in an SNS envelope")
            return _document(document["Message"], catalog, enveloped=True)
        if "detail-type" in document and "detail" in document:
            return _event(document, catalog)
    return _ids([_entry(each) for each in (document if isinstance(document, list) else [document])], catalog)


def _event(event: Mapping[str, object], catalog: str) -> Meaning:
    if event.get("source") != EVENTS:
        raise _NotUnderstood("an event, but not of Partner Central's accounts")
    detail = event["detail"]
    if not isinstance(detail, Mapping):
        raise _NotUnderstood("an event without its detail")
    connection = detail.get("connection")
    if not isinstance(connection, Mapping):
        # Four of the six kinds are about invitations only.
        return Ignored(str(event["detail-type"])[:100])
    return _ids([_entry({"id": connection.get("id"), "catalog": detail.get("catalog")})], catalog)


def _entry(value: object) -> tuple[str, str | None]:
    """A text that should be a connection ID, and the catalog that is named with it."""
    if isinstance(value, str):
        return value.strip(), None
    if isinstance(value, Mapping):
        text = next((value[key] for key in KEYS if key in value), None)
        named = next((value[key] for key in CATALOGS if value.get(key) is not None), None)
        if isinstance(text, str) and (named is None or isinstance(named, str)):
            return text.strip(), named
    raise _NotUnderstood("JSON, but without a connection ID under id, connection_id, identifier or arn")


def _ids(entries: list[tuple[str, str | None]], catalog: str) -> Meaning:
    if not entries:
        raise _NotUnderstood("an empty list")
    if len(entries) > MOST_IDS:
        raise _NotUnderstood(f"a list of {len(entries):,} IDs; {MOST_IDS} are allowed in one message")
    for text, named in entries:
        arn = CONNECTION_ARN.fullmatch(text)
        other = named or (arn["catalog"] if arn else None)
        if other is not None and other.lower() != catalog.lower() and _is_one(text, other):
            return Elsewhere(other)
    return Ids(tuple(text for text, _ in entries))


def _is_one(text: str, catalog: str) -> bool:
    return connection_id(text, catalog) is not None
