"""`python -m syncer`, for where scripts are not on the path."""

from syncer.cli import main

main()
