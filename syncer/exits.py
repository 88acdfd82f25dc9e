"""The program's exit codes. Schedulers and alerts are built on them: none ever changes its meaning."""

from enum import IntEnum


class Exit(IntEnum):
    """75, 77 and 78 as in sysexits.h; 130 and 143 as a shell reports a signal."""

    OK = 0
    INCOMPLETE = 1
    USAGE = 2
    UNSOUND = 70
    LATER = 75
    DENIED = 77
    NOT_SET_UP = 78
    INTERRUPTED = 130
    TERMINATED = 143
