"""Which names people may give themselves and their vehicles, and which are made for them. Pure.

A name stands beside strangers' names on public pages: nothing invisible, nothing that turns the
line around or grows out of it, and two that differ only in case, width or how a character is put
together are one. Letters of different scripts that look alike are not told to be the same.
"""

from __future__ import annotations

import unicodedata
from typing import Final

from server.errors import Refused
from workunits.wire import limits

# What Unicode calls Default_Ignorable beyond the categories below, and the blank Braille pattern.
_UNSEEN: Final = (
    (0x034F, 0x034F), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F), (0x2800, 0x2800),
    (0x3164, 0x3164), (0xFE00, 0xFE0F), (0xFFA0, 0xFFA0), (0xE0000, 0xE0FFF),
)  # fmt: skip
_MARKS: Final = frozenset({"Mn", "Mc", "Me"})
# Vietnamese, Thai and pointed Hebrew need two on one letter; towers of them cover other lines.
_MARKS_IN_A_ROW: Final = 2

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
        BadName: empty, too long, with characters that do not show or turn the line around, or with
            many accents on one letter.
    """
    tidy = _single_spaces(unicodedata.normalize("NFC", name))
    hidden = next((char for char in tidy if _is_hidden(char)), None)
    if hidden is not None:
        raise BadName(
            f"{what}: the name holds U+{ord(hidden):04X}, which cannot be seen; leave it out"
        )
    if _has_tower(tidy):
        raise BadName(f"{what}: the name has more than {_MARKS_IN_A_ROW} accents on one letter")
    if not 1 <= len(tidy) <= limits.NAME_CHARS:
        raise BadName(f"{what}: a name has 1 to {limits.NAME_CHARS} characters, not {len(tidy)}")
    return tidy


def _single_spaces(name: str) -> str:
    """Spaces of every width are one space."""
    spaced = (" " if unicodedata.category(char) == "Zs" else char for char in name)
    return " ".join(word for word in "".join(spaced).split(" ") if word)


def _is_hidden(char: str) -> bool:
    if unicodedata.category(char) in _HIDDEN:
        return True
    return any(first <= ord(char) <= last for first, last in _UNSEEN)


def _has_tower(name: str) -> bool:
    in_a_row = 0
    for char in name:
        in_a_row = in_a_row + 1 if unicodedata.category(char) in _MARKS else 0
        if in_a_row > _MARKS_IN_A_ROW:
            return True
    return False


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
