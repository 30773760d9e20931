"""How a refusal is worded: one printable line that says what, where, and how to mend it."""

from __future__ import annotations

from typing import Final

from workunits.errors import GraphRefused
from workunits.wire import limits

_NAME_CHARS: Final = 60
_CAUSE_CHARS: Final = 160


def refused(what: str, mend: str) -> GraphRefused:
    """The error to raise; a file cannot make its message long or smuggle control characters in."""
    return GraphRefused(f"{what}; {mend}"[: limits.TEXT_CHARS])


def shown(name: str) -> str:
    """A name out of a file, quoted, printable and short."""
    return repr(_clip(name, _NAME_CHARS))


def cause(error: Exception) -> str:
    """The first words of a foreign error, on one line."""
    text = " ".join(str(error).split())
    printable = "".join(char if char.isprintable() else "?" for char in text)
    return _clip(printable, _CAUSE_CHARS) or type(error).__name__


def _clip(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."
