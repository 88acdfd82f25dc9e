"""The API's times. The SDK's own parser of them would be the largest single cost of a call."""

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


def timestamp(value: object) -> datetime:
    """A time of the API in UTC.

    It sends ISO 8601 text; its protocol also allows RFC 1123 text and seconds since 1970. Without a zone it
    is UTC: nowhere does the API mean the worker's own.

    Raises ValueError for what is no time.
    """
    if isinstance(value, str):
        try:
            parsed = datetime.fromisoformat(value)
        except ValueError:
            parsed = _otherwise(value)
        return parsed.astimezone(UTC) if parsed.tzinfo else parsed.replace(tzinfo=UTC)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _since_1970(value)
    raise ValueError("no time")


def _otherwise(value: str) -> datetime:
    try:
        return _since_1970(float(value))
    except ValueError:
        return parsedate_to_datetime(value)


def _since_1970(seconds: float) -> datetime:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, OSError) as error:
        raise ValueError("no time of this era") from error
