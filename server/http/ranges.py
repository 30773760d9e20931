"""Range requests (RFC 9110 section 14): which bytes of a thing are asked for. Pure.

Only a single range of bytes is served; several at once are answered with the whole, as the RFC
allows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

# A number longer than this is past the end of anything stored here.
_RANGE: Final = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Slice:
    """Bytes `start` to `end`, the end not included."""

    start: int
    end: int
    size: int

    @property
    def is_whole(self) -> bool:
        return self.start == 0 and self.end == self.size

    def content_range(self) -> str:
        """The header of a partial answer."""
        return f"bytes {self.start}-{self.end - 1}/{self.size}"


class Unsatisfiable(Exception):
    """The range lies past the end of the thing."""

    def __init__(self, size: int) -> None:
        super().__init__(f"it has {size} bytes")
        self.size = size


def asked_for(header: str | None, size: int) -> Slice | None:
    """The part that a Range header asks for; None when the whole is to be sent with 200.

    Raises:
        Unsatisfiable: nothing of the range is there.
    """
    found = _RANGE.fullmatch(header.strip()) if header else None
    if found is None:
        return None
    first, last = found.groups()
    if first and last and int(last) < int(first):
        return None  # not a range at all; the RFC has it ignored
    if first:
        return _from(int(first), int(last) if last else size - 1, size)
    if last:
        return _suffix(int(last), size)
    return None


def _from(first: int, last: int, size: int) -> Slice:
    if first >= size:
        raise Unsatisfiable(size)
    return Slice(first, min(last + 1, size), size)


def _suffix(length: int, size: int) -> Slice:
    if length == 0 or size == 0:
        raise Unsatisfiable(size)
    return Slice(max(0, size - length), size, size)
