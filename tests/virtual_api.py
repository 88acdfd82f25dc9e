"""A service with a quota, and processes calling it, on a virtual clock: minutes in milliseconds.

The service is a token bucket; a call that finds no token is throttled and takes none. Processes are slots
around a pacer: the slot that has waited longest asks, and asks again when it was told to or when something
happened. Timers are late by a millisecond or two, as an event loop's are.
"""

import heapq
import json
import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from syncer.partner_central.pacing import Pacer, Row, exchange


@dataclass
class Service:
    """A token bucket: `rate` calls/s, `burst` deep, full at the start; `rate` may be infinite."""

    rate: float
    burst: float
    latency: Callable[[random.Random], float]
    tokens: float = field(init=False)
    at: float = 0.0

    def __post_init__(self) -> None:
        self.tokens = self.burst

    def takes(self, now: float) -> bool:
        if self.rate == math.inf:
            return True
        self.tokens = min(self.burst, self.tokens + (now - self.at) * self.rate)
        self.at = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


def about_60_ms(rng: random.Random) -> float:
    """Seconds: median 60 ms, between 30 and 150 ms, skewed to the long side."""
    return min(max(rng.lognormvariate(math.log(0.060), 0.35), 0.030), 0.150)


@dataclass
class Process:
    """One process: a pacer, and the slots that call."""

    pacer: Pacer
    slots: int = 32
    starts: float = 0.0
    dies: float = math.inf
    shares: bool = False
    name: str = "one"
    waking: float = math.inf
    busy: int = 0


@dataclass
class Run:
    """What happened: times are seconds since the start."""

    seconds: float = 0.0
    served_at: list[float] = field(default_factory=list)
    throttled_at: list[float] = field(default_factory=list)
    per_process: Counter[int] = field(default_factory=Counter)

    @property
    def throttled(self) -> float:
        """Throttled calls per item."""
        return len(self.throttled_at) / len(self.served_at)


class World:
    """Plays `items` calls of `processes` against `service` until all are served."""

    def __init__(self, service: Service, processes: list[Process], items: int, seed: int) -> None:
        self.service, self.processes, self.left = service, processes, items
        self.items = items
        self.rng = random.Random(seed)
        self.now = 0.0
        self.run = Run()
        self.row: Row | None = None
        self.database_gone = (math.inf, math.inf)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def at(self, when: float, do: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (when, self._count, do))

    def play(self, limit: float = 3600.0) -> Run:
        for process in self.processes:
            if process.shares:
                self.at(process.starts, partial(self._exchange, process))
            self.at(process.starts, partial(self._ask, process))
        while len(self.run.served_at) < self.items and self._events:
            self.now, _, do = heapq.heappop(self._events)
            if self.now > limit:
                raise AssertionError(f"{len(self.run.served_at)} of {self.items} served after {limit} s")
            do()
        self.run.seconds = self.now
        return self.run

    def _exchange(self, process: Process) -> None:
        if self.now >= process.dies:
            return
        self.at(self.now + self.rng.uniform(1.0, 1.2), partial(self._exchange, process))
        if not self.database_gone[0] <= self.now < self.database_gone[1]:
            self.row, share = exchange(self.row, process.pacer.report(process.name, self.now), self.now)
            self.row = json.loads(json.dumps(self.row))
            if share is not None:
                process.pacer.share(share, self.now)
            self._ask(process)

    def _ask(self, process: Process) -> None:
        now = self.now
        if now < process.starts or now >= process.dies:
            return
        while self.left and process.busy < process.slots:
            wait = process.pacer.turn(now)
            if wait > 0:
                due = now + wait + self.rng.uniform(0.0, 0.002)
                if not now < process.waking <= due:
                    process.waking = due
                    self.at(due, partial(self._ask, process))
                return
            self.left -= 1
            process.busy += 1
            latency = self.service.latency(self.rng)
            self.at(now + latency / 2, partial(self._arrive, process, now, now + latency))

    def _arrive(self, process: Process, asked: float, back: float) -> None:
        self.at(back, partial(self._answer, process, asked, self.service.takes(self.now)))

    def _answer(self, process: Process, asked: float, taken: bool) -> None:  # noqa: FBT001 (an event's payload)
        process.busy -= 1
        if self.now >= process.dies:  # its items are read once more by another
            self.left += 1
            return
        if taken:
            process.pacer.served(self.now, asked)
            self.run.served_at.append(self.now)
            self.run.per_process[self.processes.index(process)] += 1
        else:
            process.pacer.throttled(self.now, asked)
            self.run.throttled_at.append(self.now)
            self.left += 1
        self._ask(process)
