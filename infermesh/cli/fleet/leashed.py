"""`python -m infermesh.cli.fleet.leashed ...`: meshd on a leash: it ends with whoever holds its standard input.

The starter keeps the other end of the pipe and never writes to it. When the starter is gone, however it went, the
pipe ends and so does this process. Works the same on every system, and needs nothing of the kernel's goodwill.
"""

from __future__ import annotations

import os
import threading

from infermesh.node.main import main

ORPHANED_EXIT_STATUS = 71


def _end_with_stdin() -> None:
    while os.read(0, 1):
        pass
    # At once: there is nobody left to wait for an orderly end, or to read about it.
    os._exit(ORPHANED_EXIT_STATUS)


if __name__ == "__main__":
    threading.Thread(target=_end_with_stdin, name="leash", daemon=True).start()
    main(prog_name="meshd")
