"""What counts as a connection ID, and the item that carries one through a run.

The SDK does not check the pattern of an identifier, so it is checked here, before any call is made.
Source: the API reference of GetConnection (`Identifier`: ``pac-[A-Za-z0-9]{13}``, case-sensitive).
"""

import hashlib
import re
from dataclasses import dataclass

from syncer.storable import storable

CONNECTION_ID = re.compile(r"pac-[A-Za-z0-9]{13}")
CONNECTION_ARN = re.compile(
    r"arn:[a-z0-9-]+:partnercentral:[a-z0-9-]*:[0-9]*:"
    r"catalog/(?P<catalog>[A-Za-z0-9-]{1,64})/connection/(?P<id>pac-[A-Za-z0-9]{13})"
)

# An invalid identifier is kept as it was read, so that somebody can find it in the input; but it is also
# part of a primary key, and an index entry has room for about 2,700 bytes.
LONGEST_KEPT = 200


@dataclass(frozen=True, slots=True)
class Item:
    """One ID read from a source.

    position: the item's number in its source, from 0, without gaps; what the checkpoint counts.
    identifier: a connection ID; where `problem` is set, the text that was read instead, bounded.
    problem: why the text is no connection ID, in words for the person who wrote the input.
    where: the place in the input, such as ``ids.csv:17``; empty where there is no such thing.
    skip: it need not be fetched: the listing or a checkpoint says so.
    """

    position: int
    identifier: str
    problem: str | None = None
    where: str = ""
    skip: bool = False


def connection_id(text: str, catalog: str) -> str | None:
    """The connection ID in `text`, which is an ID or a connection's ARN in `catalog`; else None."""
    if CONNECTION_ID.fullmatch(text):
        return text
    arn = CONNECTION_ARN.fullmatch(text)
    if arn and arn["catalog"].lower() == catalog.lower():
        return arn["id"]
    return None


def item(
    position: int, text: str, catalog: str, where: str = "", *, wrong: str | None = None, skip: bool = False
) -> Item:
    """The item for `text`: with its connection ID, or with the reason why it has none.

    wrong: a reason that is known already; then `text` is not looked at.
    """
    text = text.strip()
    identifier = None if wrong else connection_id(text, catalog)
    if identifier is not None:
        return Item(position, identifier, None, where, skip)
    return Item(position, bounded(text), wrong or problem(text, catalog), where, skip)


def problem(text: str, catalog: str) -> str:  # noqa: PLR0911  (a list of reasons, the first that fits)
    """Why `text` is no connection ID of `catalog`: the first thing to look at, without repeating it."""
    arn = CONNECTION_ARN.fullmatch(text)
    if arn:
        return f"the ARN is of catalog {arn['catalog']}, this run is of catalog {catalog}"
    if not text:
        return "empty"
    if text.startswith("pacinv-"):
        return "this is the ID of an invitation; a connection's begins with pac-"
    if text.startswith("arn:"):
        return "not the ARN of a connection"
    if not text.startswith("pac-"):
        return "a connection ID begins with pac-"
    if len(text) != len("pac-") + 13:
        return f"a connection ID has 13 characters after pac-, this has {len(text) - len('pac-')}"
    return "after pac- a connection ID has only the letters A-Z, a-z and the digits 0-9"


def bounded(text: str) -> str:
    """`text`, storable; of a long one the beginning and a digest of the whole, so that two stay two."""
    if len(text) <= LONGEST_KEPT:
        return storable(text)
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return f"{storable(text[:LONGEST_KEPT])}…sha256:{digest}"
