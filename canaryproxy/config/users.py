"""The list of beta users as people write it: one user's key a line, `#` before a remark, empty lines as they please.

Read by `config.files` before anything has changed, and by `shared.userlist` in the processes that use it. A key is the bytes that
a request identifies the user with (`routing.identity`): of the header, or of the cookie, never decoded.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from typing import Final

#: A list that is longer was not meant: it costs each worker about 100 bytes a user.
MOST_LINES: Final = 1_000_000
LONGEST_LINE: Final = 1024  # bytes
_MARK: Final = b"\xef\xbb\xbf"  # some editors begin UTF-8 with it
_CONTROL: Final = bytes(range(0x20)) + b"\x7f"


def read_users(path: str) -> Iterator[bytes]:
    """The keys in a file, in their order. Raises OSError, or ValueError `line N: what; hint`."""
    if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe or a device may never end
        raise ValueError("is not a file; write the path of a text file")
    with open(path, "rb") as file:
        yield from parse_users(iter(lambda: file.readline(LONGEST_LINE + 3), b""))


def parse_users(lines: Iterable[bytes]) -> Iterator[bytes]:
    """The keys in these lines; raises ValueError as `read_users` does. A line that is too long may come cut."""
    for number, line in enumerate(lines, 1):
        if number > MOST_LINES:
            raise ValueError(f"line {number}: there are more than {MOST_LINES} lines; keep the users who matter")
        key = (line.removeprefix(_MARK) if number == 1 else line).strip()
        if len(line.rstrip(b"\r\n")) > LONGEST_LINE:
            raise ValueError(f"line {number}: is longer than {LONGEST_LINE} bytes; write one user's key a line")
        if not key or key.startswith(b"#"):
            continue
        if key.translate(None, _CONTROL) != key:
            raise ValueError(f"line {number}: has a control character; write plain text, one user's key a line")
        yield key
