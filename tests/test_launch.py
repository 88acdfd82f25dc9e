import subprocess
import sys

COMMAND = """
import gc
from syncer.launch import run

async def main():
    print(gc.isenabled(), gc.get_freeze_count() > 10_000)

gc.disable()
run(main())
"""


def test_a_running_command_collects_garbage_but_not_what_was_imported() -> None:
    told = subprocess.run(
        [sys.executable, "-c", COMMAND], check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    assert told == "True True\n"
