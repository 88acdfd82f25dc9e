"""The database engine, and what its errors mean for a run.

The driver is psycopg 3: set-wise statements are as quick with it as with asyncpg, and it lives well with
PgBouncer in transaction mode and with cancellation.
"""

from sqlalchemy import URL, event, make_url
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

CONNECT_TIMEOUT = 10


class DatabaseError(Exception):
    """The database cannot be used; the message is one line for a person and holds no secret."""


class BadDatabaseUrl(DatabaseError):
    """The setting itself is wrong."""


class DatabaseUnavailable(DatabaseError):
    """Not now: it may well work later."""


class DatabaseDenied(DatabaseError):
    """Wrong credentials or missing rights."""


class DatabaseNotSetUp(DatabaseError):
    """There is no such database, or not with this program's schema."""


def sqlalchemy_url(url: str) -> URL:
    """`url` (``postgresql://…``, as psql takes it) for SQLAlchemy and psycopg.

    Raises `BadDatabaseUrl`, without repeating the URL: there may be a password in it.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise BadDatabaseUrl("DATABASE_URL is no URL such as postgresql://user@host/database") from None
    if parsed.drivername not in ("postgresql", "postgres", "postgresql+psycopg"):
        raise BadDatabaseUrl(
            f"DATABASE_URL begins with {parsed.drivername}://, but syncer needs Postgres: postgresql://…"
        )
    return parsed.set(drivername="postgresql+psycopg")


def described(url: str) -> str:
    """Host and database of `url`, for people; never its password."""
    parsed = sqlalchemy_url(url)
    host = parsed.host or parsed.query.get("host") or "the local socket"
    port = f":{parsed.port}" if parsed.port else ""
    return f"database {parsed.database or 'postgres'} on {host}{port}"


def engine_for(url: str, connections: int = 3) -> AsyncEngine:
    """An engine for `url` with up to `connections`; it connects when first used.

    Raises `BadDatabaseUrl`.
    """
    engine = create_async_engine(
        sqlalchemy_url(url),
        pool_size=connections,
        max_overflow=1,
        connect_args={
            "connect_timeout": CONNECT_TIMEOUT,
            # Prepared statements outlive a transaction, which PgBouncer in transaction mode does not.
            "prepare_threshold": None,
            "application_name": "syncer",
            # A database host that vanishes is noticed in half a minute, not after two hours.
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 30_000,
        },
    )
    event.listen(engine.sync_engine, "handle_error", _leave_read_only)
    return engine


def _leave_read_only(context: ExceptionContext) -> None:
    """Let go of connections to a server that only reads.

    After a failover the old ones may lead to the former primary for ever; a fresh one finds the new one.
    """
    if sqlstate(context.original_exception) == READ_ONLY:
        context.is_disconnect = True


# SQLSTATEs, by class or whole: https://www.postgresql.org/docs/current/errcodes-appendix.html
# A standby, or a primary that is being failed over.
READ_ONLY = "25006"
PASSING_CLASSES = ("08", "40", "53", "57", "58")
PASSING = frozenset(
    {
        READ_ONLY,
        "55P03",  # lock not available
        "55006",  # object in use
    }
)
DENIED_CLASSES = ("28",)
DENIED = frozenset({"42501"})
NOT_SET_UP = frozenset(
    {
        "3D000",  # no such database
        "3F000",  # no such schema
        "42P01",  # no such table
        "42703",  # no such column
        "42704",  # no such object
        "42883",  # no such function
    }
)


def sqlstate(error: BaseException) -> str | None:
    """The five-character code of a database error; None where the server sent none."""
    original = error.orig if isinstance(error, DBAPIError) else error
    code = getattr(original, "sqlstate", None)
    return code if isinstance(code, str) else None


def violated(error: BaseException) -> str | None:
    """The name of the constraint that `error` is about, if it is about one."""
    original = error.orig if isinstance(error, DBAPIError) else error
    name = getattr(getattr(original, "diag", None), "constraint_name", None)
    return name if isinstance(name, str) else None


def is_passing(error: BaseException) -> bool:
    """Whether the same transaction may well succeed on a fresh connection: lost, deadlock, failover."""
    if isinstance(error, OSError | TimeoutError):
        return True
    if not isinstance(error, DBAPIError):
        return False
    code = sqlstate(error)
    if code is None:
        # No answer from the server: the connection broke, or could not be made. What could not be made
        # because of a wrong password or database name says so in words only.
        return _words(error) is None
    return code in PASSING or code.startswith(PASSING_CLASSES)


def is_refusal(error: BaseException) -> bool:
    """Whether the database refused a row: too long for an index, a constraint, a trigger.

    What is left when it is neither about the connection nor about rights or the schema (class 42).
    """
    code = sqlstate(error)
    if code is None or is_passing(error):
        return False
    return not code.startswith(("42", *DENIED_CLASSES)) and code not in NOT_SET_UP


def meaning(error: BaseException, url: str) -> DatabaseError:
    """What `error` means for the whole run, in one line for a person."""
    where = described(url)
    code = sqlstate(error)
    words = _words(error)
    if (code and (code in DENIED or code.startswith(DENIED_CLASSES))) or words == "denied":
        return DatabaseDenied(f"{where}: not allowed ({_named(error)}): check user, password and rights")
    if code in NOT_SET_UP or words == "not set up":
        return DatabaseNotSetUp(
            f"{where}: not set up ({_named(error)}): run `syncer migrate`, or check the name"
        )
    return DatabaseUnavailable(f"{where}: not available now ({_named(error)})")


def _words(error: BaseException) -> str | None:
    """What libpq tells only in words when a connection cannot be made (it passes no SQLSTATE on)."""
    text = str(error.orig if isinstance(error, DBAPIError) else error)
    if "authentication failed" in text or "no password supplied" in text or "no pg_hba.conf entry" in text:
        return "denied"
    if ("role " in text or "database " in text) and "does not exist" in text:
        return "not set up" if "database " in text.partition("FATAL:")[2][:12] else "denied"
    return None


def _named(error: BaseException) -> str:
    """The error's name and code. Not the server's text: that may quote values of the rows."""
    original = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    code = sqlstate(error)
    if code:
        return f"{type(original).__name__}, {code}"
    # No server spoke: these are the client library's own words about the connection.
    return str(original).partition("\n")[0] or type(original).__name__
