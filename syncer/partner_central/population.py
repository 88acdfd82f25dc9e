"""The connections of a simulated Partner Central: each computed from (seed, number), none stored.

Pure, and the same in every process and on every version of Python: a test or a load generator computes the
same answers the simulator serves. A million connections take no more memory than ten.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from string import ascii_lowercase, ascii_uppercase, digits
from typing import Any, TypeVar

from syncer.identifiers import CONNECTION_ID

# The account whose view the answers are; some of its connections it has canceled itself.
OWN_ACCOUNT = "111122223333"

PREFIX = "pac-"
LENGTH = 13
ALPHABET = digits + ascii_uppercase + ascii_lowercase
DIGITS = {character: digit for digit, character in enumerate(ALPHABET)}
IDENTIFIERS = len(ALPHABET) ** LENGTH

# Everything happens from the day of the API's version on, and within 14 months. Times are in microseconds.
EPOCH = datetime(2025, 4, 4, tzinfo=UTC)
SECOND = 1_000_000
LATEST_START = 200 * 86_400 * SECOND
LONGEST_LIFE = 220 * 86_400 * SECOND

COMPANIES = 150  # three participants each, fewer by far than connections: they are shared
# Names as people have them: what goes wrong with them goes wrong in quoting, encoding, direction or length.
STEMS = (
    "Example Cloud",
    "Société Générée",
    "Müller & Söhne",
    "Łódź Dane",
    "東京クラウド",
    "云上科技",
    "한빛데이터",
    "شركة السحاب",
    "ענן כחול",
    "Rocket 🚀",
    "Family 👩‍👩‍👧‍👦",
    "O'Neill",
    'The "Quoted"',
    "Đại Việt",
    "Cafe\N{COMBINING ACUTE ACCENT}",
    "नमस्ते",
    "Back\\slash",
    "100% {Native}",
    "<b>Bold</b>",
    "Semi;colon, Comma",
)
SUFFIXES = ("", " GmbH", " Inc.", " Pty Ltd", " S.A.", " 株式会社", " Holding", " Labs")
RENAMED = 5  # every fifth company has a former name too, and some connections still show that one

# Display name, and the part of an e-mail address.
FIRST_NAMES = (
    ("Ana", "ana"),
    ("Björn", "bjorn"),
    ("Chloé", "chloe"),
    ("Dwayne", "dwayne"),
    ("美咲", "misaki"),
    ("محمد", "mohammed"),
    ("Siobhán", "siobhan"),
    ("Zoë", "zoe"),
)
LAST_NAMES = (
    ("Alvarez", "alvarez"),
    ("O'Brien", "obrien"),
    ("Núñez", "nunez"),
    ("van der Berg", "vanderberg"),
    ("王", "wang"),
    ("Şahin", "sahin"),
    ("Müller-Lüdenscheidt", "mueller"),
    ("Smith", "smith"),
)
DOMAINS = ("example.com", "example.org", "example.net")

BOTH = ("OPPORTUNITY_COLLABORATION", "SUBSIDIARY")
# Of twenty connections: nine, five and six, so 1.3 types each.
TYPES = (BOTH[:1],) * 9 + (BOTH[1:],) * 5 + (BOTH,) * 6
KINDS = ("PartnerProfile",) * 5 + ("SellerProfile",) * 3 + ("Account",) * 2
CANCELED = 10  # one type of a connection in ten
FRACTIONS = (0, 1, 2, 3, 6)  # digits after the second's point

SUMMARY = ("Catalog", "Id", "Arn", "OtherParticipantAccountId", "UpdatedAt")
TYPE_SUMMARY = ("Status", "OtherParticipant")


_Choice = TypeVar("_Choice")


class Population:
    """`size` connections of `catalog`, numbered from 0; the first ones are the same whatever the size.

    overrides: by identifier, the answer to give instead of the computed one, or for an ID that is not in the
    population; None: there is no such connection. What is added comes last in the listing.

    An answer is GetConnection's response, ready for JSON. A computed one belongs to whoever asked for it.
    """

    def __init__(self, size: int, seed: int, catalog: str = "AWS") -> None:
        self.size = size
        self.seed = seed
        self.catalog = catalog
        self.overrides: dict[str, dict[str, Any] | None] = {}
        draws = self._draws("identifiers")
        self._shift = draws.below(IDENTIFIERS)
        # number * factor + shift runs through all IDs once if factor and 62**13 have no common divisor.
        self._factor = draws.below(IDENTIFIERS)
        while math.gcd(self._factor, IDENTIFIERS) != 1:
            self._factor += 1
        self._inverse = pow(self._factor, -1, IDENTIFIERS)
        self._companies = tuple(
            _company(number, self._draws(f"company {number}")) for number in range(COMPANIES)
        )

    def identifier(self, number: int) -> str:
        """The ID of connection `number`."""
        return PREFIX + _encoded((number * self._factor + self._shift) % IDENTIFIERS)

    def number(self, identifier: str) -> int | None:
        """The number of the connection with this ID; None where the population has none."""
        if not CONNECTION_ID.fullmatch(identifier):
            return None
        number = (_decoded(identifier.removeprefix(PREFIX)) - self._shift) * self._inverse % IDENTIFIERS
        return number if number < self.size else None

    def connection(self, number: int) -> dict[str, Any]:
        """The answer for connection `number` as computed, whatever the overrides say."""
        draws = self._draws(f"connection {number}")
        identifier = self.identifier(number)
        # The smaller of two draws: some companies have many connections, so a small population shares too.
        company = self._companies[min(draws.below(COMPANIES), draws.below(COMPANIES))]
        start = draws.below(LATEST_START)
        end = start + 2 * SECOND + draws.below(LONGEST_LIFE)
        return {
            "Catalog": self.catalog,
            "Id": identifier,
            "Arn": f"arn:aws:partnercentral:us-east-1::catalog/{self.catalog}/connection/{identifier}",
            "OtherParticipantAccountId": company.account,
            "UpdatedAt": _time(end, draws),
            "ConnectionTypes": {
                name: _detail(company, start, end - SECOND, draws) for name in draws.one_of(TYPES)
            },
        }

    def get(self, identifier: str) -> dict[str, Any] | None:
        """What GetConnection answers for this ID; None where there is no such connection."""
        if identifier in self.overrides:
            return self.overrides[identifier]
        number = self.number(identifier)
        return None if number is None else self.connection(number)

    def identifiers(self) -> Iterator[str]:
        """The IDs of all connections that `get` has an answer for, canceled ones too."""
        computed = (self.identifier(number) for number in range(self.size))
        for candidates in (computed, self._added()):
            for identifier in candidates:
                if self.overrides.get(identifier, {}) is not None:
                    yield identifier

    def page(self, start: int, limit: int) -> tuple[list[dict[str, Any]], int | None]:
        """Up to `limit` summaries of active connections from `start` on, and where the next page starts.

        `start` is 0 or what the page before told. The last page tells None, and only a sole page is empty.
        """
        summaries: list[dict[str, Any]] = []
        added = self._added()
        for position in range(start, self.size + len(added)):
            number = position - self.size
            answer = self.get(self.identifier(position) if number < 0 else added[number])
            if answer is None or not _active(answer):
                continue
            if len(summaries) == limit:
                return summaries, position
            summaries.append(_summary(answer))
        return summaries, None

    def _added(self) -> list[str]:
        return [identifier for identifier in self.overrides if self.number(identifier) is None]

    def _draws(self, subject: str) -> "_Draws":
        return _Draws(f"{self.seed}/{self.catalog}/{subject}")


class _Draws:
    """Draws lots from 512 bits that depend on nothing but `subject`.

    `random.Random` promises the same numbers on another Python for its method `random` only, and costs more
    to seed than a connection may take.
    """

    def __init__(self, subject: str) -> None:
        self._left = int.from_bytes(hashlib.blake2b(subject.encode()).digest())

    def below(self, limit: int) -> int:
        self._left, drawn = divmod(self._left, limit)
        return drawn

    def one_of(self, choices: Sequence[_Choice]) -> _Choice:
        return choices[self.below(len(choices))]


@dataclass(frozen=True, slots=True)
class _Company:
    """The other side of connections: one account, which may appear as a participant of each kind."""

    account: str
    partner_profile: str
    seller_profile: str
    name: str
    former_name: str

    def participant(self, draws: _Draws) -> dict[str, dict[str, str]]:
        name = self.former_name if draws.below(3) == 0 else self.name
        kind = draws.one_of(KINDS)
        match kind:
            case "PartnerProfile":
                return {kind: {"Id": self.partner_profile, "Name": name}}
            case "SellerProfile":
                return {kind: {"Id": self.seller_profile, "Name": name}}
            case _:
                return {kind: {"Name": name}}


def _company(number: int, draws: _Draws) -> _Company:
    name = STEMS[number % len(STEMS)] + SUFFIXES[number // len(STEMS)]
    return _Company(
        # Every fourth account ID begins with zeros.
        account=f"{draws.below(10**9 if number % 4 == 0 else 10**12):012d}",
        partner_profile="pprofile-" + _encoded(draws.below(IDENTIFIERS)),
        seller_profile=f"{_encoded(draws.below(IDENTIFIERS))[: 1 + draws.below(LENGTH)]}-{number}",
        name=name,
        former_name=f"{name} (formerly)" if number % RENAMED == 0 else name,
    )


def _detail(company: _Company, start: int, end: int, draws: _Draws) -> dict[str, Any]:
    created = start + draws.below(end - start)
    first, first_in_mail = draws.one_of(FIRST_NAMES)
    last, last_in_mail = draws.one_of(LAST_NAMES)
    detail = {
        "CreatedAt": _time(created, draws),
        "InviterEmail": f"{first_in_mail}.{last_in_mail}@{draws.one_of(DOMAINS)}",
        "InviterName": f"{first} {last}",
        "Status": "ACTIVE",
        "OtherParticipant": company.participant(draws),
    }
    if draws.below(CANCELED) == 0:
        detail["Status"] = "CANCELED"
        detail["CanceledAt"] = _time(created + draws.below(end - created), draws)
        detail["CanceledBy"] = draws.one_of((OWN_ACCOUNT, company.account))
    return detail


def _time(moment: int, draws: _Draws) -> str:
    """ISO 8601 of `moment`, in microseconds from EPOCH, cut to fewer digits of the second or none at all."""
    text = (EPOCH + timedelta(microseconds=moment)).isoformat(timespec="microseconds")
    fraction = draws.one_of(FRACTIONS)
    to_the_second = len("2025-04-04T00:00:00")
    return text[: to_the_second + 1 + fraction if fraction else to_the_second] + "Z"


def _active(answer: dict[str, Any]) -> bool:
    return any(detail.get("Status") == "ACTIVE" for detail in answer.get("ConnectionTypes", {}).values())


def _summary(answer: dict[str, Any]) -> dict[str, Any]:
    # An override may lack what the API requires: that is what some are made for.
    summary = {member: answer[member] for member in SUMMARY if member in answer}
    summary["ConnectionTypes"] = {
        name: {member: detail[member] for member in TYPE_SUMMARY if member in detail}
        for name, detail in answer["ConnectionTypes"].items()
    }
    return summary


def _encoded(value: int) -> str:
    characters = []
    for _ in range(LENGTH):
        value, digit = divmod(value, len(ALPHABET))
        characters.append(ALPHABET[digit])
    return "".join(characters)


def _decoded(text: str) -> int:
    value = 0
    for character in reversed(text):
        value = value * len(ALPHABET) + DIGITS[character]
    return value
