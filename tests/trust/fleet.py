"""Workers on one queue and one quota, killed again and again until the queue is empty; then the ledger.

Each message is in one of all the forms that a worker understands; a tenth of the IDs come twice, and one
message in a hundred holds no ID at all. The kills come at random moments, and whoever is killed starts again.

    python -m tests.trust.fleet
    python -m tests.trust.fleet --messages 500 --rate 100 --kills 2 --seed 7
"""

import argparse
import asyncio
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import psycopg

from syncer.demo import environment
from syncer.partner_central.population import Population
from syncer.partner_central.simulator import GET, Faults, Simulator
from tests.conftest import database_on, server
from tests.sqs_server import SqsServer
from tests.trust import ledger
from tests.trust.crashes import Ground, ground
from tests.trust.launcher import Running

AGAIN = "python -m tests.trust.fleet --seed"
# Milliseconds that the messages have been on the queue: they tell of nothing that happens meanwhile.
WAITED = 5000
# What is worked on when its worker is killed stays hidden for so long (seconds).
VISIBILITY = 10

ACCEPTED, CANCELLED, RECEIVED = (
    f"Partner Connection {what}" for what in ("Invitation Accepted", "Cancelled", "Invitation Received")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """rate: calls/s that the quota allows. kills: of each worker, at most. life: seconds until a kill."""

    seed: int = 1
    messages: int = 5000
    workers: int = 4
    rate: float = 150.0
    kills: int = 8
    life: tuple[float, float] = (1.0, 6.0)

    @property
    def patience(self) -> float:
        """After so many seconds a worker hangs."""
        return 120 + 4 * self.messages / self.rate


@dataclass(slots=True)
class Figures:
    """What it came to.

    in_flight: IDs that a killed worker had asked for, and not settled. shared: IDs that two workers had at
    the same time, in two messages.
    """

    identifiers: int = 0
    messages: int = 0
    kills: int = 0
    calls: int = 0
    in_flight: int = 0
    shared: int = 0
    received_again: int = 0
    most_received: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class Sent:
    """What was put on the queue. failures: the identifiers that are to be recorded as none."""

    identifiers: dict[str, list[str]] = field(default_factory=dict)  # by message
    failures: set[str] = field(default_factory=set)


def event(identifier: str, kind: str) -> dict[str, Any]:
    detail = {"catalog": "AWS", "connection": {"id": identifier}, "connectionInvitation": {"id": "pacinv-1"}}
    return {"source": "aws.partnercentral-account", "detail-type": kind, "detail": detail}


def invitation(_: str) -> dict[str, Any]:
    detail = {"catalog": "AWS", "connectionInvitation": {"id": "pacinv-1"}}
    return {"source": "aws.partnercentral-account", "detail-type": RECEIVED, "detail": detail}


def enveloped(content: object) -> dict[str, str]:
    message = content if isinstance(content, str) else json.dumps(content)
    return {"Type": "Notification", "TopicArn": "arn:aws:sns:us-east-1:1:x", "Message": message}


# Ways to say one ID. Whatever is not text is JSON.
FORMS: tuple[Callable[[str], object], ...] = (
    lambda one: one,
    lambda one: f"  {one}\n",
    lambda one: f"arn:aws:partnercentral:us-east-1::catalog/AWS/connection/{one}",
    json.dumps,
    lambda one: {"id": one},
    lambda one: {"connection_id": one, "catalog": "AWS"},
    lambda one: {"identifier": one, "more": [1, 2]},
    lambda one: {"Identifier": one},
    lambda one: {"arn": f"arn:aws:partnercentral:us-east-1::catalog/AWS/connection/{one}"},
    partial(event, kind=ACCEPTED),
    partial(event, kind=CANCELLED),
    enveloped,
    lambda one: enveloped(event(one, ACCEPTED)),
)
# What is no ID is recorded as it stands; where there is no telling what it is, by the message's own ID.
NO_ID = (
    ("pac-{n}", True),
    ("pac-00000000000{n}; DROP TABLE connection", True),
    ("pacinv-{n}", True),
    ('{{"id": "nobody {n}"}}', False),
    ("\N{SNOWMAN} {n}", True),
    ('{{"nothing": {n}}}', None),
    ('{{"broken": {n}', None),
    ("[]", None),
    ('[{n}, {{"id": 1}}]', None),
    ("{n}\nand more\nlines", None),
)


class Fleet:
    """One trial."""

    def __init__(self, on: Ground, plan: Plan) -> None:
        self.on = on
        self.plan = plan
        self.dice = random.Random(plan.seed)
        self.population = Population(round(plan.messages * 0.9), plan.seed)
        self.queue = SqsServer(visibility=VISIBILITY, most_receives=10, pace=0.7)
        self.sent = Sent()
        self.told = ledger.Told()
        self.asked: Counter[str] = Counter()
        self.explained: Counter[str] = Counter()  # receipts, by message, beside the first
        self.lives: list[Running] = []
        self.working: set[Life] = set()
        self.wrong: list[str] = []
        self.figures = Figures(identifiers=self.population.size, messages=plan.messages)

    def put(self) -> None:
        """Fill the queue."""
        dice = self.dice
        ids = [*self.population.identifiers()]
        poison = self.plan.messages // 100
        names = [*ids, *dice.sample(ids, self.plan.messages - len(ids) - poison)]
        dice.shuffle(names)
        bodies: list[tuple[object, list[str]]] = []
        while names:
            if dice.random() < 0.02:
                some = [names.pop() for _ in range(min(len(names), dice.randint(2, 5)))]
                bodies.append(([dice.choice((one, {"id": one})) for one in some], some))
            else:
                one = names.pop()
                bodies.append((dice.choice(FORMS)(one), [one]))
        bodies += [(invitation(""), []) for _ in range(poison)]
        for number in range(poison):
            text, known = NO_ID[number % len(NO_ID)]
            body = text.format(n=number)
            bodies.append((body, []))
            if known is not None:
                self.sent.failures.add(body if known else json.loads(body)["id"])
            else:
                self.sent.failures.add(f"message {len(bodies) - 1}")
        order = [*range(len(bodies))]
        dice.shuffle(order)
        for number in order:
            body, some = bodies[number]
            message = self.queue.send(body if isinstance(body, str) else json.dumps(body))
            message.sent_at -= WAITED
            self.sent.identifiers[message.id] = some
            if f"message {number}" in self.sent.failures:
                self.sent.failures.remove(f"message {number}")
                self.sent.failures.add(f"message {message.id}")

    async def run(self) -> Figures:
        """Raises `AssertionError` when something is not as it must be."""
        began = time.monotonic()
        self.put()
        async with AsyncExitStack() as stack:
            _, url = stack.enter_context(database_on(self.on.server_url, self.on.templates["prepared"]))
            self.database = stack.enter_context(psycopg.connect(url, autocommit=True))
            faults = Faults(latency=0.05, jitter=0.02, rate=self.plan.rate, burst=self.plan.rate / 2)
            api = Simulator(self.population, faults, answer=self._answer)
            self.variables = {n: os.environ[n] for n in ("PATH", "HOME", "LANG") if n in os.environ}
            self.variables |= environment(await stack.enter_async_context(api.serving()))
            self.variables["DATABASE_URL"] = url
            await asyncio.gather(*(self._worker() for _ in range(self.plan.workers)))
            self._look()
        self.figures.seconds = time.monotonic() - began
        return self.figures

    async def _worker(self) -> None:
        """A worker, killed and started again until the queue is drained."""
        for left in reversed(range(self.plan.kills + 1)):
            moment = self.dice.uniform(*self.plan.life) if left else None
            if not await self._life(moment):
                return

    async def _life(self, moment: float | None) -> bool:
        """One start of the program; whether it was killed, after `moment`."""
        life = Life(self)
        self.working.add(life)
        async with self.queue.serving(life.watch) as queue_url:
            variables = self.variables | {
                "SYNCER_QUEUE_URL": queue_url,
                "AWS_ENDPOINT_URL_SQS": queue_url.partition("/1234")[0],
            }
            running = self.on.launcher.start(["work", "--drain", "--json"], variables, self.on.folder)
            self.lives.append(running)
            with suppress(TimeoutError):
                await asyncio.wait_for(running.ended.wait(), moment or self.plan.patience)
            if not running.ended.is_set():
                await self.on.launcher.kill(running)
                assert moment is not None, f"it hangs: {running.stderr.read_text()[-2000:]}"
                life.ended()
        self.working.remove(life)
        return life.killed

    async def _answer(self, operation: str, request: dict[str, Any]) -> dict[str, Any] | None:
        if operation != GET:
            return None
        identifier = request["Identifier"]
        self.asked[identifier] += 1
        answer = self.population.get(identifier)
        self.told.tell(identifier, answer)
        return answer

    def _look(self) -> None:
        """Everything is done: is it as it must be?"""
        assert not self.wrong, self.wrong[0]
        for life in self.lives:
            printed = life.stderr.read_text()
            assert "Traceback" not in printed, printed[-4000:]
            assert life.exit in (0, 1, -9), printed[-4000:]
        ledger.assert_sound(self.database, self.told)
        ledger.assert_tables(self.database, self.told)
        ledger.assert_runs(self.database, everything_written_once=True)
        assert set(self.told) == {*self.population.identifiers()}, "not everything was asked for"
        failures = {row[0] for row in self.database.execute("SELECT identifier FROM sync_failure")}
        assert failures == self.sent.failures, "other failures are recorded than there were"
        assert self.queue.depth == (0, 0)
        assert self.queue.dead == []
        deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        assert self.database.execute(deadlocks).fetchone() == (0,)
        for id, times in self.queue.received.items():
            assert times <= 1 + self.explained[id], f"{id} was received {times} times"
        figures = self.figures
        # A second call for an ID is the price of a kill, or of two workers that could not know of each other.
        assert self.asked.total() <= figures.identifiers + figures.in_flight + figures.shared
        figures.calls = self.asked.total()
        figures.received_again = sum(times - 1 for times in self.queue.received.values())
        figures.most_received = max(self.queue.received.values())


class Life:
    """One start of a worker, as its queue sees it.

    held: the messages that were handed out to it, and that it has not deleted.
    """

    def __init__(self, fleet: Fleet) -> None:
        self.killed = False
        self._fleet = fleet
        self._held: dict[str, str] = {}  # message by handle
        self._names: Counter[str] = Counter()  # the connections in them

    async def watch(self, operation: str, request: dict[str, Any], answer: dict[str, Any] | None) -> None:
        match operation, answer:
            case "ReceiveMessage", {"Messages": messages}:
                for each in messages:
                    self._receive(each["MessageId"], each["ReceiptHandle"])
            case "DeleteMessageBatch", None:
                for entry in request["Entries"]:
                    self._assert_settled(self._held[entry["ReceiptHandle"]])
            case "DeleteMessageBatch", _:
                for entry in request["Entries"]:
                    self._names.subtract(self._fleet.sent.identifiers[self._held.pop(entry["ReceiptHandle"])])

    def _receive(self, message: str, handle: str) -> None:
        fleet = self._fleet
        self._held[handle] = message
        if self.killed:  # nobody is there any more
            fleet.explained[message] += 1
        for one in fleet.sent.identifiers[message]:
            fleet.figures.shared += any(other._names[one] > 0 for other in fleet.working - {self})  # noqa: SLF001
            self._names[one] += 1

    def _assert_settled(self, message: str) -> None:
        wanted = {*self._fleet.sent.identifiers[message]}
        settled = ledger.settled(self._fleet.database, wanted)
        if settled != wanted:
            self._fleet.wrong.append(f"{wanted - settled} deleted before its commit")

    def ended(self) -> None:
        """It is dead: what it held comes again, and what it had asked for may be asked for once more."""
        self.killed = True
        fleet = self._fleet
        fleet.explained.update(self._held.values())
        names = {one for message in self._held.values() for one in fleet.sent.identifiers[message]}
        asked = {one for one in names if fleet.asked[one]}
        fleet.figures.kills += 1
        fleet.figures.in_flight += len(asked - ledger.settled(fleet.database, asked))


async def _main(plan: Plan) -> int:
    with server() as url:
        async with ground(url) as on:
            figures = await Fleet(on, plan).run()
    print(figures)
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="workers that are killed until their queue is empty")
    usual = Plan()
    parser.add_argument("--seed", type=int, default=usual.seed)
    parser.add_argument("--messages", type=int, default=usual.messages)
    parser.add_argument("--workers", type=int, default=usual.workers)
    parser.add_argument("--rate", type=float, default=usual.rate, help="the quota, in calls per second")
    parser.add_argument("--kills", type=int, default=usual.kills, help="of each worker, at most")
    sys.exit(asyncio.run(_main(Plan(**vars(parser.parse_args())))))
