"""Where a resumed run goes on: decided from what an earlier run over the same input left behind."""

from syncer.sources.formats import InputError
from syncer.store.runs import Earlier


def position_to_resume(earlier: Earlier | None, content: str | None) -> int:
    """The position of the first item that is not settled yet.

    earlier: the latest run over the same content, or else over files of the same names. content: the digest
    of the files as they are now; None if that cannot be told. Raises `InputError`.
    """
    if content is None:
        raise InputError(
            "stdin can be read only once, so it cannot be resumed: put the IDs into a file first"
        )
    if earlier is None or not earlier.unfinished:
        return 0  # nothing was begun, or what was begun is finished: this is a new pass over it
    if earlier.input_digest != content:
        raise InputError(
            f"{earlier.input} is not what it was when run {earlier.id} was interrupted: "
            "restore it to resume that run, or leave --resume away to begin again"
        )
    return earlier.checkpoint
