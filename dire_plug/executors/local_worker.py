"""Make units in a process of `--executor local`, which ends when its parent does, however that ended.

Apart from `local`, which needs torch: what takes seconds to import is imported when the parent is already watched.
"""

import contextlib
import os
import select
import signal
import sys
import threading
import time
from pathlib import Path

PATIENCE = 10.0
"""Seconds that a process gets to end by itself when it is told to stop."""


def main(replies: int) -> int:
    """Make the unit of each job folder that is named on a line of standard input; reply with its exit code."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    from dire_plug.executors.jobs import Job
    from dire_plug.executors.worker import Stopped, stopping, work

    with contextlib.suppress(Stopped), os.fdopen(replies, "w", buffering=1) as answers, stopping():
        for line in sys.stdin:
            print(work(Job(Path(line.strip())), wait=False), file=answers)
    return 0


def _end_with_parent() -> None:
    """End this process, and what it started, when nobody holds the other end of standard input any more."""
    parent = select.poll()
    parent.register(sys.stdin, 0)  # no event is asked for, so it returns at the hang-up
    parent.poll()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(PATIENCE / 2)  # an orderly end is worth less where nobody waits for it
    os.killpg(os.getpid(), signal.SIGKILL)  # it leads its session


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
