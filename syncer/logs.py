"""Logging: structlog to stderr, readable on a terminal, one JSON object per line elsewhere."""

import logging
import sys
from collections import Counter
from collections.abc import MutableMapping

import structlog

from syncer.events import Event

# Of each kind that an item can cause, so many are told: a file of a million bad lines is a million rows in
# `sync_failure`, and that is enough.
MOST_PER_KIND = 100
PER_ITEM = frozenset(
    {
        Event.ITEM_INVALID,
        Event.ITEM_FAILED,
        Event.SCHEMA_DRIFT,
        Event.MESSAGE_IGNORED,
        Event.DELETE_FAILED,
        Event.TELEMETRY_FAILING,
    }
)


class FirstOfEach:
    """Lets the first events of each kind through that items cause; the last of these says so."""

    def __init__(self) -> None:
        self._told: Counter[str] = Counter()

    def __call__(
        self, _logger: object, _method: str, event: MutableMapping[str, object]
    ) -> MutableMapping[str, object]:
        kind = str(event.get("event"))
        if kind in PER_ITEM:
            self._told[kind] += 1
            if self._told[kind] > MOST_PER_KIND:
                raise structlog.DropEvent
            if self._told[kind] == MOST_PER_KIND:
                event["note"] = "no more of these are told; failures are all in sync_failure"
        return event


def configure() -> None:
    """Set up structlog, and keep the libraries' own logs quiet.

    On a terminal only what is wrong is told: for the rest there is a progress bar, and a table at the end.
    The SDK logs whole answers at its debug level; they hold personal data, so no level of ours turns that on.
    """
    terminal = sys.stderr.isatty()
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    structlog.configure(
        processors=[
            FirstOfEach(),
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING if terminal else logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(name)s: %(message)s")
    # The driver warns in words of its own of connections that it gives up: what that means, our events say.
    for library in ("botocore", "aiobotocore", "aioboto3", "boto3", "psycopg"):
        logging.getLogger(library).setLevel(logging.ERROR)
