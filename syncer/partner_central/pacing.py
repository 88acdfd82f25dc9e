"""When the next call may go: a pacer that learns the request quota, and how workers share one quota.

Pure deciding: everything here is driven by (time, event) and knows no clock, no task and no database.

The service hands out calls from a bucket of unknown rate and depth. The method:

1. *Pace.* Permission flows in at the rate and is kept for two calls at most, so calls go out evenly. Nothing
   is promised ahead: whoever waits asks again, and one throttled call re-times everybody.
2. *Look.* Until the first throttled call the rate doubles every round trip, as in TCP's slow start. The
   bucket was full, so the calls served by then are its depth plus quota times time: a first estimate.
   Where earlier runs were never throttled, the rate starts at half of what they were served.
3. *Measure.* At a throttled call the service's bucket is empty. Between two of them, what was served is what
   flowed in, to within a call: served / time bounds the quota from both sides, the tighter the longer the
   time. An estimate within the bounds stays, another moves between them.
4. *Hold.* After a throttled call a short pause, so that the bucket can absorb some jitter; then a rate below
   the estimate by its uncertainty, rising slowly, then faster, with each call served. So the savings in the
   bucket are spent, the next throttled call measures anew, and each confirmation doubles the calls until
   the next. Of all the throttled answers of one round trip only the first changes the pace.
5. *Rise.* More served than the estimate allows: it was too low, and the rate grows by a tenth per round trip.
6. *Unused permission proves nothing.* The rate rises only while it is what holds the calls back.
"""

import math
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, NotRequired, TypedDict

START = 5.0  # calls/s; what the slowest sibling of this API allows
SLOWEST = 0.5  # calls/s; so that a quota which comes back is noticed within seconds

# Permission that may pile up: two calls, or what flows in while a timer is late (a millisecond is the grain
# of an event loop's timers, a few is what its other work adds).
DEPTH = 2.0
LATE = 0.004

UNUSED = 0.25  # share of the permission; above this the pacer is not what holds the calls back
SHORTEST, LONGEST = 20.0, 400.0  # calls from one throttled call to the next one wanted
SHORTEST_SECONDS = 10.0  # for very slow services, where that many calls would take minutes
LONGEST_SECONDS = 10.0  # the same for fast services, of whose calls more are in flight at once
SUREST, LEAST_SURE = 0.02, 0.12  # bounds of the relative uncertainty of the estimate
REMEMBERED = 0.03  # the uncertainty of an estimate from an earlier run
LOOK = 1.0  # growth of the rate per round trip while nothing is known
RISE = 0.1  # the same where the estimate has proved too low
CONFIRMED = 0.1  # an estimate that moved by less than this is confirmed

EXPIRES = 3.0  # seconds without an exchange, after which a worker's part goes to the others
FORGOTTEN = 60.0  # seconds; a row silent for so long has no living workers, rather than no reachable database
FOOT = 0.25  # of its fair part: what a worker that joins may have before the others have made room
ROOM = 1.2  # times what it uses: the part of a worker that doesn't use its permission
ALONE = 30.0  # seconds without a new share, after which a worker may raise its last one by itself
SETTLED = 1.2  # seconds after a change of the shared rate until every worker goes by it
SHARED_ROUND_TRIP = 0.3  # seconds; the grain of what several workers report, where one has its round trip

TELLING = 0.5  # seconds; in a shorter span what was served is a burst

EPSILON = 1e-6  # calls; a wait computed in floats may end a hair early


class Pace(StrEnum):
    """Why calls go out as fast as they do."""

    LOOKING = "looking for the quota"
    AT_QUOTA = "at the quota"
    AT_CEILING = "at the maximum rate"
    NOT_THE_LIMIT = "not the limit"


@dataclass(slots=True)
class Learner:
    """What is known of a quota, and the rate that follows from it. JSON-able; calls/s, calls, seconds.

    quota: the estimate; None until the first throttled call. unsure: its relative uncertainty.
    gain: growth of the rate per round trip; 0 while the rate follows the curve around the estimate.
    interval, risen: calls until the next throttled call is wanted, and how many of them have gone.
    mark, served: when the latest throttled call was asked (at first: any call), and the calls since.
    full: what the bucket may have held at the mark, in seconds of the quota.
    peers: workers on the same quota; each counts its calls only, so each may be a call off.
    led: the estimate comes from all workers together, so a single one may lower it, but not raise it.
    """

    rate: float = START
    quota: float | None = None
    unsure: float = REMEMBERED
    gain: float = LOOK
    interval: float = SHORTEST
    risen: float = 0.0
    mark: float | None = None
    served: float = 0.0
    full: float = 1.0
    decided: float = -1.0
    round_trip: float = 0.06
    peers: int = 1
    led: bool = False

    def know(self, quota: float) -> None:
        """Start from an estimate, such as that of an earlier run."""
        self.quota = max(quota, SLOWEST)
        self.gain, self.unsure, self.risen = 0.0, REMEMBERED, 0.0
        self.interval = max(2 * SHORTEST, 3 * self.quota)
        self.mark, self.served, self.full = None, 0.0, 1.0
        self.follow_curve()

    def rise(self, now: float, calls: float) -> None:
        """Go faster, as `calls` more were served that the rate had held back."""
        if self.quota is not None and not self.gain:
            self.risen += calls
            self.follow_curve()
            asked = now - self.round_trip / 2
            if not self.led and self.bounds(asked)[0] > self.quota * (1 + 3 * self.unsure):
                self.gain, self.mark, self.served = RISE, asked, 0.0
        if self.gain:
            self.rate += min(self.rate, self.gain / self.round_trip * calls)

    def bounds(self, asked: float) -> tuple[float, float]:
        """The least and the most that the quota can be, if the bucket is empty at `asked`."""
        seconds = 0.0 if self.mark is None else max(asked - self.mark, 0.0)
        jitter = self.round_trip / 2
        least = max(self.served - self.peers, 0.0) / (seconds + jitter + self.full)
        return least, (self.served + self.peers) / max(seconds - jitter, 0.001)

    def measure(self, asked: float) -> None:
        """Estimate anew: a call asked at `asked` was throttled."""
        least, most = self.bounds(asked)
        before = self.quota
        if before is None:
            # For about half of the time the rate was below the quota, and the bucket ran over.
            seconds = 0.0 if self.mark is None else asked - self.mark
            quota = max((self.served - self.peers) / (seconds / 2 + self.full), START / 2)
        elif self.gain:
            quota = max(before, min((least + most) / 2, self.rate))
        elif least <= before <= most:
            quota = before
        else:
            quota = (least + most) / 2
        if before is not None and self.led:
            quota = min(quota, before)
        quota = max(quota, SLOWEST)
        if before is None:
            self.interval = max(min(self.served + 1, SHORTEST), quota)
        elif self.gain or abs(quota / before - 1) >= CONFIRMED:
            self.interval = max(min(SHORTEST, SHORTEST_SECONDS * quota), quota)
        elif self.served >= self.interval / 4:  # fewer calls confirm nothing
            self.interval = min(2 * self.interval, max(LONGEST, LONGEST_SECONDS * quota))
        self.unsure = min(max((most - least) / 2 / quota, SUREST), LEAST_SURE)
        self.quota, self.gain, self.risen = quota, 0.0, 0.0
        self.follow_curve()

    def restart(self, asked: float, served: float = 0.0) -> None:
        """Count from a throttled call asked at `asked`: the bucket was empty then."""
        self.mark, self.served, self.full = asked, served, 0.0

    def follow_curve(self) -> None:
        """Set the rate by the estimate and the calls served since the last throttled one."""
        if self.quota is not None:
            way = self.risen / self.interval
            self.rate = max(self.quota * (1 - self.unsure + 3 * self.unsure * way * way), SLOWEST)


@dataclass(frozen=True, slots=True)
class Share:
    """One worker's part of what all know: the curve around the estimate, scaled to that part."""

    quota: float
    unsure: float
    interval: float
    risen: float
    peers: int


@dataclass(frozen=True, slots=True)
class Start:
    """Nobody knows the quota: by what was served so far, look for it from `rate` (calls/s) on."""

    rate: float


@dataclass(frozen=True, slots=True)
class Report:
    """What a worker tells about once a second; counts are since its last report.

    quota: calls/s, its own estimate where it has learned without the others; else None.
    seconds: since its last report; 0 in the first. served: calls.
    throttled: seconds since the latest throttled call was asked; None if there was none.
    served_after: those of `served` that were asked after it.
    want: calls/s it could use; None for as many as there are.
    """

    worker: str
    quota: float | None
    seconds: float
    served: int
    throttled: float | None
    served_after: int
    want: float | None
    leaving: bool = False


class Pacer:
    """Decides when a call may go, and learns from how it was answered.

    known: calls/s learned before; without it, a modest start and a quick search.
    ceiling: calls/s never exceeded. All times are seconds of one monotonic clock, from 0 on.

    In any span of t seconds at most ``rate * t + max(2, 0.004 * rate)`` calls go, `rate` being the highest
    one of the span.
    """

    def __init__(self, known: float | None = None, *, ceiling: float = math.inf) -> None:
        self.ceiling = ceiling
        self._learner = Learner()
        if known is not None:
            self._learner.know(known)
        self._alone_from: float | None = None  # when the last share stops to bind
        self._credit = DEPTH
        self._at: float | None = None  # when the credit was last counted
        self._unused = 0.0  # share of the latest permission that nobody took
        self._shared_at = 0.0
        self._reported: float | None = None  # when the last report was made
        self._told = 0  # calls served since the last report
        self._told_after = 0  # those of them asked after the latest throttled one
        self._throttled: float | None = None  # when the latest throttled call since the last report was asked

    @property
    def rate(self) -> float:
        """Calls/s at which permission flows in now."""
        return min(self._learner.rate, self.ceiling)

    @property
    def quota(self) -> float | None:
        """Calls/s, the estimate for this worker; None while nothing is known."""
        return self._learner.quota

    @property
    def pace(self) -> Pace:
        """Why calls go out as fast as they do."""
        if self._unused > UNUSED:
            return Pace.NOT_THE_LIMIT
        if self._learner.rate >= self.ceiling:
            return Pace.AT_CEILING
        return Pace.LOOKING if self._learner.gain else Pace.AT_QUOTA

    def turn(self, now: float) -> float:
        """0.0: a call may go now, and is counted as gone. Else the seconds after which to ask again."""
        self._count(now)
        if self._credit >= 1 - EPSILON:
            self._credit -= 1
            if self._learner.mark is None:
                self._learner.mark = now
            return 0.0
        return (1 - self._credit) / self.rate

    def served(self, now: float, asked: float) -> None:
        """A call asked at `asked` was answered, with a result or with what is wrong with the item."""
        self._count(now)
        self._answered(now, asked)
        if self._alone_from is not None and now >= self._alone_from:
            self._learner.led = False
        held = self._learner.led and now > self._shared_at + EXPIRES
        if not held and self._unused <= UNUSED and self._learner.rate < self.ceiling:
            self._learner.rise(now, 1)

    def failed(self, now: float, asked: float) -> None:
        """A call failed in the service: it took from the quota, but is no reason to go faster."""
        self._count(now)
        self._answered(now, asked)

    def throttled(self, now: float, asked: float) -> None:
        """A call was refused for the quota: at that moment the service's bucket was empty."""
        self._count(now)
        learner = self._learner
        if self._throttled is None or asked > self._throttled:
            self._throttled, self._told_after = asked, 0
        if learner.mark is None or asked < learner.mark:
            return
        if asked >= learner.decided:
            learner.decided = now
            learner.measure(asked)
            self._credit = -self._pause()
        learner.restart(asked)

    def report(self, worker: str, now: float, *, leaving: bool = False) -> Report:
        """What has happened since the last report; to be made when the exchange is sure to follow."""
        want = self.ceiling
        if self._unused > UNUSED:
            want = min(want, self.rate * (1 - self._unused) * ROOM)
        report = Report(
            worker,
            None if self._alone_from is not None else self.quota,
            0.0 if self._reported is None else now - self._reported,
            self._told,
            None if self._throttled is None else max(now - self._throttled, 0.0),
            self._told_after,
            want if want < math.inf else None,
            leaving,
        )
        self._told, self._told_after, self._throttled, self._reported = 0, 0, None, now
        return report

    def share(self, share: Share | Start, now: float) -> None:
        """Go by `share` from here on; learning goes on from it for as long as no other share comes.

        A start is for those who have not begun: whoever is on the way knows better.
        """
        self._count(now)
        learner = self._learner
        if isinstance(share, Start):
            if learner.mark is None and learner.quota is None:
                learner.rate = max(learner.rate, share.rate)
            return
        # What was served under another share counts as if it had been under this one.
        learner.served *= share.quota / learner.quota if learner.quota else 0.0
        learner.quota, learner.unsure, learner.gain = share.quota, share.unsure, 0.0
        learner.interval, learner.risen, learner.peers = share.interval, share.risen, share.peers
        learner.follow_curve()
        learner.led = True
        self._alone_from, self._shared_at = now + ALONE, now

    def _answered(self, now: float, asked: float) -> None:
        learner = self._learner
        learner.round_trip += (min(max(now - asked, 0.001), 10.0) - learner.round_trip) / 8
        if learner.mark is not None and asked >= learner.mark:
            learner.served += 1
        self._told += 1
        if self._throttled is not None and asked > self._throttled:
            self._told_after += 1

    def _pause(self) -> float:
        """Calls to leave out after a throttled one: what jitter may bring together, and one more."""
        return 1 + self.rate * self._learner.round_trip / 4

    def _count(self, now: float) -> None:
        if self._at is None:
            self._at = now
        earned = max(now - self._at, 0.0) * self.rate
        self._at = max(now, self._at)
        # A pause begun at a faster rate must not take minutes at this one.
        self._credit = max(self._credit, -self._pause())
        depth = max(DEPTH, LATE * self.rate)
        spilt = max(self._credit + earned - depth, 0.0)
        self._credit = min(self._credit + earned, depth)
        if earned > 0:
            weight = min(earned / max(10.0, 0.1 * self.rate), 1.0)
            self._unused += (spilt / earned - self._unused) * weight


class Lease(TypedDict):
    """One worker's part of the rate (0 to 1), what it was served, and when it last came.

    pace: calls/s served between its last two reports. seen: seconds of the database's clock.
    """

    part: float
    pace: float
    want: float | None
    seen: float


class Row(TypedDict):
    """What the workers of one account, catalog and operation share. JSON-able, small.

    learner: the one `Learner` of all, as a dict; None while nobody knows. Its quota is what the next run
    starts from. seen: when anybody last came. served: the most calls/s that all were served together, while
    nobody knows the quota.
    """

    learner: dict[str, Any] | None
    seen: float
    leases: dict[str, Lease]
    served: NotRequired[float]


def exchange(row: Row | None, report: Report, now: float) -> tuple[Row, Share | Start | None]:
    """The row after `report`, and the worker's share; None: nothing is known yet, it looks by itself.

    One learner sees what all have served and when any was throttled; its rate is divided among the living.
    A part grows only into what the others have given back. now: seconds of the database's clock.
    """
    row = row or Row(learner=None, seen=now, leases={})
    living = _living(row, now)
    others = {name: lease for name, lease in living.items() if name != report.worker}
    fresh = 0 < report.seconds <= EXPIRES
    pace = report.served / report.seconds if fresh else 0.0
    learner = None if row["learner"] is None else Learner(**row["learner"])
    if learner is not None and learner.quota is not None and now - row["seen"] > EXPIRES:
        learner.know(learner.quota)
    if report.quota is not None:
        learner = _joined(learner, report.quota, now, alone=not any(o["part"] for o in others.values()))
    elif learner is not None and fresh:
        _learn(learner, report, pace, others, now)
    share: Share | Start | None
    served = row.get("served", 0.0)
    if report.throttled is None and report.seconds >= TELLING:
        served = max(served, pace + sum(other["pace"] for other in others.values()))
    if report.leaving:
        part, share = 0.0, None
    elif learner is None:
        # Half of it: a deep bucket may have served more than its quota for a while.
        start = served / 2 / (len(others) + 1)
        part, share = 0.0, Start(start) if start > START else None
    else:
        wants = [math.inf if other["want"] is None else other["want"] for other in others.values()]
        fair = _fair(learner.rate, math.inf if report.want is None else report.want, wants) / learner.rate
        part = min(fair, max(1 - sum(other["part"] for other in others.values()), FOOT * fair))
        share = _part(learner, part, len(others) + 1)
    if not report.leaving:
        others[report.worker] = Lease(part=part, pace=pace, want=report.want, seen=now)
    if learner is None:
        return Row(learner=None, seen=now, leases=others, served=served), share
    return Row(learner=asdict(learner), seen=now, leases=others), share


def _living(row: Row, now: float) -> dict[str, Lease]:
    silent = now - row["seen"]
    if silent > FORGOTTEN:
        return {}
    # In a gap without any exchange the database was away: then silence says nothing about a worker.
    excused = silent if silent > EXPIRES else 0.0
    return {
        name: Lease(**{**lease, "seen": lease["seen"] + excused})
        for name, lease in row["leases"].items()
        if now - lease["seen"] - excused <= EXPIRES
    }


def _joined(learner: Learner | None, quota: float, now: float, *, alone: bool) -> Learner:
    """The learner after a worker brought what it had learned without the others."""
    together = quota if alone or learner is None or learner.quota is None else learner.quota + quota
    learner = Learner(round_trip=SHARED_ROUND_TRIP)
    learner.know(together)
    learner.mark = now
    return learner


def _learn(learner: Learner, report: Report, pace: float, others: dict[str, Lease], now: float) -> None:
    if learner.mark is None:
        learner.mark = now - report.seconds
    learner.peers = len(others) + 1
    if report.throttled is None:
        learner.served += report.served
    else:
        # What the others have served up to then, but not told yet (or told already, though it was later).
        asked = now - report.throttled
        untold = sum(other["pace"] * (asked - other["seen"]) for other in others.values())
        before = learner.served + report.served - report.served_after + untold
        if asked >= max(learner.decided, learner.mark):
            if learner.gain:  # the rate has run ahead of what is known to be served
                learner.rate = min(learner.rate, pace + sum(other["pace"] for other in others.values()))
            learner.decided = now + SETTLED
            learner.served = max(before, 0.0)
            learner.measure(asked)
            learner.restart(asked, report.served_after - untold)
        else:
            learner.served += report.served
    if report.want is None or report.served >= report.want:
        learner.rise(now, report.served)


def _part(learner: Learner, part: float, peers: int) -> Share:
    part = max(part, SLOWEST / learner.rate)
    if learner.gain or learner.quota is None:  # the rate has left the curve
        return Share(learner.rate * part, SUREST, LONGEST, 0.0, peers)
    return Share(learner.quota * part, learner.unsure, learner.interval * part, learner.risen * part, peers)


def _fair(quota: float, want: float, others: list[float]) -> float:
    """The share of one who wants `want`: all get the same, except who wants less; the rest is divided."""
    left, count = quota, len(others) + 1
    for wanted in sorted([want, *others]):
        if wanted * count > left:
            return min(want, left / count)
        left -= wanted
        count -= 1
    return want + left / (len(others) + 1)
