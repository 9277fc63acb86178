"""Kills at random moments of real rollouts: `python -m tests.chaos --moments 200 --seed 1`. See `__main__`."""

import sys
from pathlib import Path

_SYSTEM = str(Path(__file__).resolve().parent.parent / "system")
if _SYSTEM not in sys.path:  # as pytest does for the system tests, whose harness this uses
    sys.path.insert(0, _SYSTEM)
