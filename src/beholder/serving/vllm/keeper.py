"""Keeps a command running as long as somebody wants it: python keeper.py COMMAND..., standard input a pipe.

When the pipe closes, which it does however its other end died, or on SIGTERM, the command and all that it
started are ended. Runs in a process group of its own and imports nothing of Beholder.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

PATIENCE = 30.0


def main() -> None:
    """Run the command until it ends or is not wanted any more; then end the whole group, this process too."""
    process = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    unwanted = threading.Event()

    def watch() -> None:
        while os.read(0, 1):
            pass
        unwanted.set()

    signal.signal(signal.SIGTERM, lambda _number, _frame: unwanted.set())
    threading.Thread(target=watch, daemon=True).start()
    while process.poll() is None and not unwanted.wait(0.2):
        pass
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            pass
    os.killpg(os.getpgid(0), signal.SIGKILL)


if __name__ == "__main__":
    if os.getpgid(0) != os.getpid():
        sys.exit("this ends its whole process group, so it must have one of its own")
    main()
