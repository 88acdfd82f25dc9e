"""What the program tells OpenTelemetry: the closed list of its instruments and spans, and who records them.

Names follow the semantic conventions where there are any. Attributes are few, and each has few values: never
the ID of a connection or a run, let alone a name or an address of a person. Not configured, all of it goes to
the API's own no-ops. See `exporters` for where it goes.
"""

import os
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from opentelemetry import metrics, trace
from opentelemetry.trace import SpanKind, Status, StatusCode

from syncer import __version__
from syncer.answers import Answer, Failure
from syncer.exporters import wanted
from syncer.identifiers import Item
from syncer.ledger import Ledger
from syncer.outcomes import Outcome

# Of the fetches that went well, so many a second get a span: at the usual quotas that is all of them, and
# where there is none, a span for each would cost more than a twentieth of the fetch itself.
FETCH_SPANS = 20.0
# The same for the durations of what went well, each of which costs a fortieth of the fetch. All are counted.
DURATIONS = 100.0

# What an API calls its errors is a word. Anything else is not repeated.
CODE = re.compile(r"[A-Za-z][A-Za-z0-9_.]{0,63}")

ACCOUNT, CATALOG = "cloud.account.id", "syncer.catalog"
METHOD, SYSTEM, ERROR = "rpc.method", "rpc.system.name", "error.type"
AWS = {SYSTEM: "aws-api"}
OUTCOME, SOURCE, STATUS, STATE = "syncer.outcome", "syncer.source", "syncer.status", "syncer.state"


class Kind(StrEnum):
    """What an instrument does with what it is told: adds it up, keeps the last, or counts it by size."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Instrument:
    """One metric. unit: as UCUM has it. bounds: of a histogram's buckets, in its unit."""

    name: str
    kind: Kind
    unit: str
    description: str
    attributes: tuple[str, ...]
    bounds: tuple[float, ...] = ()


CALLS = Instrument(
    "syncer.calls",
    Kind.COUNTER,
    "{call}",
    "Calls to Partner Central, by operation and how they ended",
    (METHOD, OUTCOME, ERROR),
)
CALL_DURATION = Instrument(
    "rpc.client.call.duration",
    Kind.HISTOGRAM,
    "s",
    "Their durations: of all that failed, and of up to 100 a second of the others",
    (SYSTEM, METHOD, OUTCOME, ERROR),
    (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10),
)
RATE = Instrument(
    "syncer.request.rate",
    Kind.GAUGE,
    "{call}/s",
    "The pace of calls, as learned: this process's share of it",
    (METHOD, ACCOUNT, CATALOG),
)
ITEMS = Instrument(
    "syncer.items",
    Kind.COUNTER,
    "{item}",
    "Items, by the one outcome that each ends in",
    (OUTCOME, SOURCE, ACCOUNT, CATALOG),
)
ROWS = Instrument(
    "syncer.rows", Kind.COUNTER, "{row}", "Rows inserted or changed", (SOURCE, ACCOUNT, CATALOG)
)
BATCHES = Instrument(
    "syncer.batch.duration",
    Kind.HISTOGRAM,
    "s",
    "Transactions, their repetitions among them, by whether they were committed",
    (ERROR,),
    (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120),
)
RUNS = Instrument(
    "syncer.run.duration",
    Kind.HISTOGRAM,
    "s",
    "Runs, by how they ended",
    (STATUS, SOURCE, ACCOUNT, CATALOG),
    (1, 5, 15, 60, 300, 900, 3600, 14400),
)
IN_STEP = Instrument(
    "syncer.in_step.timestamp",
    Kind.GAUGE,
    "s",
    "When a sync from the listing last left everything in step, in seconds since 1970",
    (ACCOUNT, CATALOG),
)
MESSAGES = Instrument(
    "syncer.queue.messages", Kind.GAUGE, "{message}", "Messages on the queue, about", (STATE,)
)
MESSAGE_AGE = Instrument(
    "syncer.queue.message.age",
    Kind.HISTOGRAM,
    "s",
    "From the sending of a message until it was settled; of up to 100 a second",
    (),
    (0.5, 1, 2.5, 5, 15, 60, 300, 900, 3600, 14400, 86400),
)
INSTRUMENTS = (CALLS, CALL_DURATION, RATE, ITEMS, ROWS, BATCHES, RUNS, IN_STEP, MESSAGES, MESSAGE_AGE)


class Span(StrEnum):
    """The names of all spans. A run is the parent of its batches and fetches."""

    RUN = "run"
    BATCH = "batch"
    FETCH = "fetch"


Fetch = Callable[[Item], Awaitable[Answer]]
# Told of a call that has ended: how long it took in seconds, and its error.
Called = Callable[[float, Exception | None], None]


class Ration:
    """So many a second may be told; as many as a second's may come at once."""

    def __init__(self, a_second: float) -> None:
        self._step = 1 / a_second
        self._quiet_until = 0.0

    def __call__(self) -> bool:
        """Whether one more may be."""
        now = time.monotonic()
        if self._quiet_until > now:
            return False
        self._quiet_until = max(self._quiet_until, now - 1.0) + self._step
        return True


class Rated(Protocol):
    """What goes at a rate (calls/s)."""

    @property
    def rate(self) -> float: ...


class Telemetry:
    """The instruments, made once per process. traces, metrics: whether anybody wants them."""

    def __init__(self) -> None:
        signals = wanted(os.environ)
        self.traces, self.metrics = signals.traces, signals.metrics
        self.tracer = trace.get_tracer("syncer", __version__)
        meter = metrics.get_meter("syncer", __version__)
        self._add = {
            each.name: meter.create_counter(each.name, each.unit, each.description).add
            for each in INSTRUMENTS
            if each.kind is Kind.COUNTER
        }
        self._set = {
            each.name: meter.create_gauge(each.name, each.unit, each.description).set
            for each in INSTRUMENTS
            if each.kind is Kind.GAUGE
        }
        self._calls: dict[str, _Calls] = {}
        self._may_tell_age = Ration(DURATIONS)
        self._record = {
            each.name: meter.create_histogram(
                each.name, each.unit, each.description, explicit_bucket_boundaries_advisory=each.bounds
            ).record
            for each in INSTRUMENTS
            if each.kind is Kind.HISTOGRAM
        }

    def add(self, instrument: Instrument, number: int, attributes: Mapping[str, str]) -> None:
        self._add[instrument.name](number, attributes)

    def set(self, instrument: Instrument, value: float, attributes: Mapping[str, str]) -> None:
        self._set[instrument.name](value, attributes)

    def record(self, instrument: Instrument, value: float, attributes: Mapping[str, str]) -> None:
        self._record[instrument.name](value, attributes)

    def aged(self, seconds: float) -> None:
        """A message was settled so long after it was sent; by clocks that may differ."""
        if self.metrics and self._may_tell_age():
            self.record(MESSAGE_AGE, max(seconds, 0.0), {})

    def called(self, operation: str) -> Called:
        """For the calls of one operation. Those that went well are counted at the next `flush`."""
        if not self.metrics:
            return _unheard
        return self._calls.setdefault(operation, _Calls(self, operation))

    def flush(self) -> None:
        """Count the calls that are not counted yet."""
        for calls in self._calls.values():
            calls.flush()


class _Calls:
    """Tells of the calls of one operation."""

    def __init__(self, telemetry: Telemetry, operation: str) -> None:
        self._telemetry = telemetry
        self._well = _method(operation) | {OUTCOME: "ok"}
        self._uncounted = 0
        self._may_tell = Ration(DURATIONS)

    def __call__(self, seconds: float, error: Exception | None) -> None:
        if error is not None:
            outcome = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(error).__name__).lower()
            how = self._well | {OUTCOME: outcome, ERROR: _code(error)}
            self._telemetry.add(CALLS, 1, how)
            self._telemetry.record(CALL_DURATION, seconds, how | AWS)
            return
        self._uncounted += 1
        if self._may_tell():
            self._telemetry.record(CALL_DURATION, seconds, self._well | AWS)

    def flush(self) -> None:
        if self._uncounted:
            self._telemetry.add(CALLS, self._uncounted, self._well)
            self._uncounted = 0


def _unheard(_seconds: float, _error: Exception | None) -> None:
    """Nobody wants to know."""


def _method(operation: str) -> dict[str, str]:
    return {METHOD: f"PartnerCentralAccount/{operation}"}


def _code(error: Exception) -> str:
    code = getattr(error, "code", None) or type(error).__name__
    return code if isinstance(code, str) and CODE.fullmatch(code) else "_OTHER"


class RunTelemetry:
    """What one run tells. source: of its items, as `sync_run` has it."""

    def __init__(self, telemetry: Telemetry, *, account_id: str, catalog: str, source: str) -> None:
        self._telemetry = telemetry
        self._whose = {ACCOUNT: account_id, CATALOG: catalog}
        self._source = {SOURCE: source}
        self._told: Counter[str] = Counter()
        self._may_tell = Ration(FETCH_SPANS)

    @property
    def wanted(self) -> bool:
        """Whether anybody wants the metrics: then it is worth a question to the database."""
        return self._telemetry.metrics

    @contextmanager
    def run(self) -> Iterator[None]:
        """The span around all of the run."""
        with self._span(Span.RUN, self._whose | self._source):
            yield

    @contextmanager
    def batch(self, answers: int) -> Iterator[None]:
        """The span around one batch's writing, and its duration."""
        began = time.monotonic()
        failed: dict[str, str] = {}
        try:
            with self._span(Span.BATCH, {"syncer.answers": answers}):
                yield
        except Exception as error:
            failed = {ERROR: type(error).__name__}
            raise
        finally:
            self._telemetry.record(BATCHES, time.monotonic() - began, failed)

    @contextmanager
    def _span(self, name: Span, attributes: Mapping[str, str | int]) -> Iterator[None]:
        if not self._telemetry.traces:
            yield
            return
        # An exception's text may quote a row, and so would the event that the SDK would make of it.
        with self._telemetry.tracer.start_as_current_span(
            name, attributes=attributes, record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                yield
            except Exception as error:
                span.set_attribute(ERROR, type(error).__name__)
                span.set_status(Status(StatusCode.ERROR))
                raise

    def fetching(self, fetch: Fetch) -> Fetch:
        """`fetch`, with a span for each that fails, and for some of the others."""
        if not self._telemetry.traces:
            return fetch

        async def traced(item: Item) -> Answer:
            began = time.time_ns()
            try:
                answer = await fetch(item)
            except Exception as error:
                self._fetched(item, began, _code(error))
                raise
            if isinstance(answer, Failure):
                self._fetched(item, began, answer.code)
            elif self._may_tell():
                self._fetched(item, began, None)
            return answer

        return traced

    def _fetched(self, item: Item, began: int, error: str | None) -> None:
        # Made when it is over: whether it is worth telling is known only then.
        span = self._telemetry.tracer.start_span(
            Span.FETCH, kind=SpanKind.CLIENT, start_time=began,
            attributes={"syncer.connection.id": item.identifier},
        )  # fmt: skip
        if error is not None:
            span.set_attribute(ERROR, error)
            span.set_status(Status(StatusCode.ERROR))
        span.end()

    def tell(self, ledger: Ledger, rates: Mapping[str, Rated], *, over: bool = False) -> None:
        """What is new in the books, and the pace. over: removals held back until now stay failures."""
        if not self._telemetry.metrics:
            return
        self._telemetry.flush()
        standing = ledger.standing()
        if not over:
            # They count as failures for now, and may yet become something else. A counter takes nothing back.
            standing[Outcome.FAILED] -= ledger.held
        for outcome in Outcome:
            if (new := standing[outcome] - self._told[outcome]) > 0:
                self._telemetry.add(ITEMS, new, {OUTCOME: outcome.value} | self._source | self._whose)
        if (new := standing["rows_written"] - self._told["rows_written"]) > 0:
            self._telemetry.add(ROWS, new, self._source | self._whose)
        self._told = Counter(standing)
        for operation, pacer in rates.items():
            self._telemetry.set(RATE, pacer.rate, _method(operation) | self._whose)

    def ended(self, status: str, seconds: float) -> None:
        """The run is over; to be called within its span."""
        self._telemetry.record(RUNS, seconds, {STATUS: status} | self._source | self._whose)
        trace.get_current_span().set_attribute(STATUS, status)

    def in_step(self, at: float | None) -> None:
        """When everything was last in step, in seconds since 1970; None if it never was."""
        if at is not None:
            self._telemetry.set(IN_STEP, at, self._whose)
