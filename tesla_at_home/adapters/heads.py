"""The head of an answer, whole and within a bound: interim answers (1xx), status line and headers.

Python bounds each line and their number within one answer, but reads interim answers for ever, and
takes a connection that breaks in the middle of the headers for their end. What follows the head is
`exchange`'s.
"""

from __future__ import annotations

import io
from http.client import HTTPResponse
from typing import Final, cast

from tesla_at_home.errors import Unreachable

# Twice what nginx lets an application send.
HEAD_BYTES: Final = 64 * 1024


class WholeHead(HTTPResponse):
    """An answer whose head has an end, and came to it."""

    def begin(self) -> None:
        raw = self.fp
        head = cast(io.BufferedReader, _Head(raw))
        self.fp = head
        try:
            super().begin()
        finally:
            if self.fp is head:
                self.fp = raw


class _Head:
    """As much of a connection as reading a head takes."""

    def __init__(self, raw: io.BufferedReader) -> None:
        self._raw = raw
        self._left = HEAD_BYTES

    def readline(self, most: int) -> bytes:
        line = self._raw.readline(most)
        self._left -= len(line)
        if self._left < 0:
            raise Unreachable(f"the answer's headers have more than {HEAD_BYTES} bytes")
        if len(line) < most and not line.endswith(b"\n"):
            raise ConnectionAbortedError("the answer ends within its head")
        return line

    def close(self) -> None:
        self._raw.close()
