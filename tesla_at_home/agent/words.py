"""Words of strangers, made fit to be kept and shown: one line, nothing that steers a terminal.

What the project, its models or a peer's error say ends up in the history, in `why` and in logs; a line
break in it could forge a line there. Cut where the wire cuts it.
"""

from __future__ import annotations

from workunits.wire import limits


def one_line(text: str) -> str:
    """`text` in one line of printable characters, of at most `limits.TEXT_CHARS`."""
    shown = "".join(c if c.isprintable() else " " for c in text[: 2 * limits.TEXT_CHARS])
    return " ".join(shown.split())[: limits.TEXT_CHARS]
