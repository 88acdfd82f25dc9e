"""What each error of ours means for the exit code: one table, for whoever ends a run or a command."""

from syncer.exits import Exit
from syncer.health import PortTaken
from syncer.partner_central.errors import Denied, PartnerCentralError
from syncer.sources.formats import InputError
from syncer.sqs.client import QueueDenied, QueueError, QueueMissing, QueueUnfit
from syncer.store.database import (
    BadDatabaseUrl,
    DatabaseDenied,
    DatabaseError,
    DatabaseNotSetUp,
    DatabaseUntrusted,
)
from syncer.store.embedded import EmbeddedUnavailable

# The first that fits counts.
EXITS: tuple[tuple[type[Exception], Exit], ...] = (
    (InputError, Exit.USAGE),
    (BadDatabaseUrl, Exit.NOT_SET_UP),
    (DatabaseNotSetUp, Exit.NOT_SET_UP),
    (DatabaseDenied, Exit.NOT_SET_UP),
    (DatabaseUntrusted, Exit.NOT_SET_UP),
    (EmbeddedUnavailable, Exit.NOT_SET_UP),
    (DatabaseError, Exit.LATER),
    (Denied, Exit.DENIED),
    (PartnerCentralError, Exit.LATER),
    (PortTaken, Exit.USAGE),
    (QueueUnfit, Exit.USAGE),
    (QueueMissing, Exit.NOT_SET_UP),
    (QueueDenied, Exit.DENIED),
    (QueueError, Exit.LATER),
)


def exit_for(error: Exception) -> Exit | None:
    """The exit code that `error` ends with; None for an error that is none of ours."""
    return next((code for kind, code in EXITS if isinstance(error, kind)), None)
