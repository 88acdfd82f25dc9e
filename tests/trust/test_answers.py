"""Whatever the API answers: stored without loss, or refused in words; never a crash.

Answers are generated from the service's model, so that a member that is added there is tried here. They go
the whole way: over HTTP, through the client, normalized, into Postgres and back.
"""

import asyncio
import copy
import json
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta, timezone
from itertools import count
from typing import Any

import anyio
import psycopg
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from syncer.answers import Answer, Failure, Found
from syncer.demo import environment
from syncer.fetch import Fetcher
from syncer.identifiers import Item
from syncer.ledger import Calls, Ledger, Settlement
from syncer.outcomes import Outcome
from syncer.partner_central import client
from syncer.partner_central.pacing import Pacer
from syncer.partner_central.population import OWN_ACCOUNT, Population
from syncer.partner_central.retry import Retrying
from syncer.partner_central.simulator import CONTENT_TYPE, Simulator
from syncer.partner_central.turns import Turns
from syncer.storable import UNSTORABLE
from syncer.store import runs
from syncer.store.engine import engine_for
from syncer.store.writer import Scope, Writer
from tests.conftest import database_on
from tests.trust import ledger

SHAPES: dict[str, Any] = json.loads(
    (client.MODEL / client.SERVICE / "2025-04-04" / "service-2.json").read_text()
)["shapes"]
ANSWER = "GetConnectionResponse"
T0 = datetime(2026, 1, 1, tzinfo=UTC)

# Surrogates and NUL too: JSON can carry them, Postgres cannot.
CHARACTERS = st.characters(exclude_categories=()) | st.sampled_from("\x00\ud800\udfff\ufeff\u2028'\"\\{},")
ZONES = st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30)), timezone(-timedelta(hours=8))])
TIMES = st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29), timezones=ZONES)  # noqa: DTZ001  (the zones are drawn)


def conforming(name: str) -> st.SearchStrategy[Any]:
    """Values of the shape `name`, as JSON has them."""
    shape = SHAPES[name]
    match shape["type"]:
        case "string" if "pattern" in shape:
            return st.from_regex(shape["pattern"], fullmatch=True, alphabet=st.characters(codec="ascii"))
        case "string":
            return st.text(CHARACTERS, max_size=min(shape.get("max", 40), 100))
        case "timestamp":
            return TIMES.map(datetime.isoformat)
        case "map":
            keys = st.sampled_from(["SUBSIDIARY", "OPPORTUNITY_COLLABORATION"]) | conforming(
                shape["key"]["shape"]
            )
            return st.dictionaries(keys, conforming(shape["value"]["shape"]), min_size=1, max_size=3)
        case "structure" if shape.get("union"):
            kinds = [
                st.fixed_dictionaries(
                    {member: conforming(each["shape"])}, optional={"__type": st.just(member)}
                )
                for member, each in shape["members"].items()
            ]
            return st.one_of(kinds)
        case "structure":
            members = {member: conforming(each["shape"]) for member, each in shape["members"].items()}
            required = {member: members.pop(member) for member in shape["required"]}
            return st.fixed_dictionaries(required, optional=members)
        case other:
            raise NotImplementedError(other)


ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(CHARACTERS, max_size=9)
    | st.sampled_from(["0001-01-01T00:00:00+05:00", "9999-12-31T23:59:59-08:00", "-1", "1e999", 10**400, ""]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=9), inner, max_size=2),
    max_leaves=4,
)  # fmt: skip


@st.composite
def mangled(draw: st.DrawFn) -> Any:
    """An answer in which up to three things, anywhere, are missing, added, or something else."""
    answer = {"": draw(conforming(ANSWER))}
    for _ in range(draw(st.integers(1, 3))):
        place: Any = answer
        key = ""
        while isinstance(place[key], dict) and place[key] and draw(st.integers(0, 3)):
            place, key = place[key], draw(st.sampled_from(sorted(place[key])))
        match draw(st.sampled_from(["less", "more", "other"])):
            case "less" if key:
                del place[key]
            case "more" if isinstance(place[key], dict):
                name = draw(
                    st.sampled_from(["Account", "Guild", "__type", "CanceledAt"]) | st.text(max_size=9)
                )
                place[key][name] = draw(ODD)
            case _:
                place[key] = draw(ODD)
    return answer[""]


def deep(levels: int) -> str:
    return "[" * levels + "]" * levels


BODIES = st.one_of(
    st.binary(max_size=99),
    ODD.map(json.dumps).map(str.encode),
    st.integers(1, 200_000).map(lambda levels: f'{{"Id": {deep(levels)}}}'.encode()),
    st.integers(1, 9_999).map(lambda digits: f'{{"UpdatedAt": {"9" * digits}}}'.encode()),
)


class Way:
    """From a body that the API answers to the tables, and back."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._runner = asyncio.Runner()
        self._stack = AsyncExitStack()
        self._bodies: dict[str, bytes] = {}
        self._names = Population(10**9, seed=3)
        self._numbers = count()
        self._runner.run(self._open())

    async def _open(self) -> None:
        url = await self._stack.enter_async_context(
            Simulator(Population(0, seed=0), answer=lambda _, request: self._answer(request)).serving()
        )
        with pytest.MonkeyPatch.context() as variables:
            for name, value in environment(url).items():
                variables.setenv(name, value)
            self._api = await self._stack.enter_async_context(
                client.opened(client.own_session(), catalog="AWS", connections=4)
            )
        self._engine = engine_for(self.url)

    def _answer(self, request: dict[str, Any]) -> web.Response:
        return web.Response(body=self._bodies[request["Identifier"]], headers={"Content-Type": CONTENT_TYPE})

    def new_id(self) -> str:
        return self._names.identifier(next(self._numbers))

    def go(self, bodies: dict[str, bytes]) -> list[Answer]:
        """Fetch and write the IDs that are answered with `bodies`; what came of each."""
        return self._runner.run(self._go(bodies))

    async def _go(self, bodies: dict[str, bytes]) -> list[Answer]:
        self._bodies = bodies
        fetch = Fetcher(
            self._api,
            turns=Turns(Pacer(known=100_000.0), anyio.sleep),
            retrying=Retrying(1, anyio.sleep, lambda _: None),
            now=lambda: T0,
            calls=Calls(),
        )
        books, scope = Ledger(), Scope(runs.new_id(T0), OWN_ACCOUNT, "AWS")
        await runs.start(self._engine, scope, runs.Beginning("file", T0))

        async def committed(_: Settlement) -> None:
            pass

        writer = Writer(self._engine, scope, books, now=lambda: T0, sleep=anyio.sleep, committed=committed)
        answers = []
        for position, identifier in enumerate(bodies):
            item = Item(position, identifier)
            books.read(item)
            answers.append(await fetch(item))
        await writer.write(answers)
        assert books.tally.adds_up
        assert books.checkpoint == len(bodies)
        return answers

    def stored(self, identifier: str) -> tuple[tuple[Any, ...] | None, dict[str, tuple[Any, ...]]]:
        """The row of a connection, and those of its types, as `ledger` has them."""
        columns = ", ".join(ledger.DETAIL)
        with psycopg.connect(self.url) as database:
            row = database.execute(
                "SELECT arn, other_participant_account_id, updated_at FROM connection WHERE id = %s",
                [identifier],
            ).fetchone()
            types = database.execute(
                f"""SELECT type, {columns}, participant_name FROM connection_type_history
                    WHERE connection_id = %s AND valid_to IS NULL""".encode(),
                [identifier],
            ).fetchall()
        return row, {name: tuple(rest) for name, *rest in types}

    def failure(self, identifier: str) -> bool:
        with psycopg.connect(self.url) as database:
            return (
                database.execute("SELECT FROM sync_failure WHERE identifier = %s", [identifier]).fetchone()
                is not None
            )

    def close(self) -> None:
        async def close() -> None:
            await self._stack.aclose()
            await self._engine.dispose()

        self._runner.run(close())
        self._runner.close()


@pytest.fixture(scope="module")
def way(server_url: str, template: str) -> Iterator[Way]:
    with database_on(server_url, template) as (_, url):
        way = Way(url)
        yield way
        way.close()


def body(answer: object) -> bytes:
    return json.dumps(answer).encode()


def storable(value: Any) -> Any:
    """What Postgres can keep of `value`, told independently of the program."""
    return UNSTORABLE.sub("\ufffd", value) if isinstance(value, str) else value


def rows(answer: Any) -> tuple[tuple[Any, ...], dict[str, tuple[Any, ...]]]:
    plain = copy.deepcopy(answer)
    for detail in plain["ConnectionTypes"].values():
        detail["OtherParticipant"].pop("__type", None)
    types = {storable(name): tuple(map(storable, row)) for name, row in ledger.type_rows(plain).items()}
    return tuple(map(storable, ledger.connection_row(plain))), types


@given(answers=st.lists(conforming(ANSWER), min_size=1, max_size=3))
def test_what_follows_the_model_is_stored_without_loss(way: Way, answers: Sequence[Any]) -> None:
    wanted = {way.new_id(): answer for answer in answers}
    for identifier, answer in wanted.items():
        answer |= {"Id": identifier, "Catalog": "AWS"}
    came = way.go({identifier: body(answer) for identifier, answer in wanted.items()})
    for identifier, one in zip(wanted, came, strict=True):
        assert isinstance(one, Found), one
        assert way.stored(identifier) == rows(wanted[identifier])


@given(answers=st.lists(mangled(), min_size=1, max_size=3))
def test_what_does_not_follow_it_is_stored_or_refused_in_words(way: Way, answers: Sequence[Any]) -> None:
    wanted = {way.new_id(): answer for answer in answers}
    for identifier, answer in wanted.items():
        if isinstance(answer, dict) and "Id" in answer:
            answer |= {"Id": identifier, "Catalog": "AWS"}
    came = way.go({identifier: body(answer) for identifier, answer in wanted.items()})
    for identifier, one in zip(wanted, came, strict=True):
        row, types = way.stored(identifier)
        if isinstance(one, Found) and row is not None:
            assert not way.failure(identifier)
            assert set(types) == {each.type for each in one.connection.types}
        else:
            assert way.failure(identifier)
            assert row is None
        if isinstance(one, Failure):
            assert (one.outcome, one.code) == (Outcome.FAILED, "UnreadableAnswer")
            assert one.message


@given(bodies=st.lists(BODIES, min_size=1, max_size=3))
def test_no_body_trips_it(way: Way, bodies: Sequence[bytes]) -> None:
    wanted = {way.new_id(): each for each in bodies}
    for identifier, one in zip(wanted, way.go(wanted), strict=True):
        assert isinstance(one, Failure), one
        assert way.failure(identifier)
