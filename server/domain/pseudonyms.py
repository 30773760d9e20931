"""Which names people may give themselves and their vehicles, and which are made for them. Pure.

A name stands beside strangers' names on public pages: nothing invisible, nothing that turns the
line around, and two that look the same are the same (NFC).
"""

from __future__ import annotations

import unicodedata
from typing import Final

from server.errors import Refused
from workunits.wire import limits

# Control, format (bidi marks, zero-width), surrogate, private use, unassigned; line separators.
_HIDDEN: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})

_FIRST: Final = (
    "amber", "brisk", "calm", "clear", "cobalt", "coral", "dawn", "early", "ember", "fern",
    "frost", "gentle", "golden", "hazel", "indigo", "ivory", "jade", "keen", "late", "lunar",
    "maple", "misty", "noble", "ochre", "opal", "polar", "quiet", "rapid", "silver", "solar",
    "swift", "violet",
)  # fmt: skip
_SECOND: Final = (
    "badger", "beacon", "birch", "brook", "comet", "crane", "delta", "falcon", "field", "finch",
    "glade", "harbor", "heron", "island", "lark", "ledge", "lynx", "marten", "meadow", "nova",
    "orbit", "otter", "pebble", "pine", "quasar", "raven", "ridge", "river", "sparrow", "summit",
    "tern", "valley",
)  # fmt: skip


class BadName(Refused):
    """A name that cannot stand on a public page."""

    code = "bad_name"


def clean(name: str, what: str) -> str:
    """`name` in NFC, with single spaces and none around it.

    Raises:
        BadName: empty, too long, or with characters that do not show or turn the line around.
    """
    tidy = " ".join(unicodedata.normalize("NFC", name).split(" ")).strip()
    while "  " in tidy:
        tidy = tidy.replace("  ", " ")
    hidden = next((char for char in tidy if unicodedata.category(char) in _HIDDEN), None)
    if hidden is not None:
        raise BadName(
            f"{what}: the name holds U+{ord(hidden):04X}, which cannot be seen; leave it out"
        )
    if not 1 <= len(tidy) <= limits.NAME_CHARS:
        raise BadName(f"{what}: a name has 1 to {limits.NAME_CHARS} characters, not {len(tidy)}")
    return tidy


def key(name: str) -> str:
    """What names that look alike have in common: 'Ａmber' and 'AMBER' are one name."""
    return unicodedata.normalize("NFKC", name).casefold()


def invented(draw: bytes) -> str:
    """A pseudonym out of four random bytes, for those who give none: 'quiet-heron-4711'."""
    number = int.from_bytes(draw[2:4], "big") % 10_000
    return f"{_FIRST[draw[0] % 32]}-{_SECOND[draw[1] % 32]}-{number:04d}"


def erased(draw: bytes) -> str:
    """What stands in place of an owner who had everything about them deleted."""
    return f"erased-{draw.hex()}"
