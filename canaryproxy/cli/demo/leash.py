"""Run a command that ends with its parent: `python leash.py PARENT_PID COMMAND...`.

Started by `children` as a script, without importing the package. The kernel sends SIGTERM to the command when the demo dies,
even by SIGKILL (prctl(2), PR_SET_PDEATHSIG: kept over exec, Linux only; elsewhere the leash is simply missing).
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1

if __name__ == "__main__":
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() == int(sys.argv[1]):  # else the parent died before the leash was on
        os.execv(sys.argv[2], sys.argv[2:])
