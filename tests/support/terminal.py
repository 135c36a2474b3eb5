"""Commands that are started from a terminal."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

from children import default_signals

MDASH = Path(sys.executable).with_name("mdash")
CLEAN_ENV = {name: value for name, value in os.environ.items() if not name.startswith("MDASH_")}


def on_terminal(demo, *args, answer=b"", question=b"Password of demo: ", columns=100):
    """What a command writes to the terminal that it is started from, where something is typed; and its exit code."""
    ours, theirs = pty.openpty()
    env = {**CLEAN_ENV, **demo.by_key, "TERM": "xterm", "COLUMNS": str(columns)}
    # A process that leads a session and opens a terminal is controlled by it: Ctrl-C there is a signal.
    shell = ["sh", "-c", 'exec <"$0" >"$0" 2>&1 "$@"', os.ttyname(theirs), str(MDASH), *args]
    with default_signals():
        process = subprocess.Popen(shell, env=env, start_new_session=True)
    written, deadline = b"", time.monotonic() + 60
    try:
        while (time.monotonic() < deadline and process.poll() is None) or select.select([ours], [], [], 0)[0]:
            if not select.select([ours], [], [], 0.1)[0]:
                continue
            written += os.read(ours, 4096)
            if answer and question in written:
                os.write(ours, answer)
                answer = b""
    finally:
        process.kill()
        process.wait()
        os.close(ours)
        os.close(theirs)
    return written.decode(), process.returncode
