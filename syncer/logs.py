"""Logging: structlog to stderr, readable on a terminal, one JSON object per line elsewhere."""

import logging
import sys

import structlog


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
    for library in ("botocore", "aiobotocore", "aioboto3", "boto3"):
        logging.getLogger(library).setLevel(logging.ERROR)
