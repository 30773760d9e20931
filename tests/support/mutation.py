"""Damage to valid bytes, as a fuzzer does it: most of what is tried gets past the first check.

A change is a value, so that Hypothesis can draw and shrink it and a soak can draw it from a seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final, Literal

from hypothesis import strategies as st

Kind = Literal["flip", "set", "cut", "insert", "repeat", "splice", "number"]

KINDS: Final[tuple[Kind, ...]] = ("flip", "set", "cut", "insert", "repeat", "splice", "number")
# Where lengths and counts overflow, as they travel: both byte orders, and ends of MessagePack's forms.
NUMBERS: Final = tuple(
    number.to_bytes(width, order)
    for width in (1, 2, 4, 8)
    for number in (0, 1, 2 ** (8 * width - 1) - 1, 2 ** (8 * width - 1), 2 ** (8 * width) - 1)
    for order in ("little", "big")
)
MOST_BYTES: Final = 1 << 20
_SIZES: Final = (1, 1, 1, 2, 4, 8, 32)
_TIMES: Final = (1, 1, 1, 2, 5)


@dataclass(frozen=True, slots=True)
class Change:
    """`place` and `size` are parts of the whole, so that a change fits bytes of any length."""

    kind: Kind
    place: float
    size: int
    value: int

    def of(self, raw: bytes, other: bytes) -> bytes:
        """`raw` with this done to it; `other` is a valid sample to take pieces of."""
        at = int(self.place * len(raw))
        head, piece, tail = raw[:at], raw[at : at + self.size], raw[at + self.size :]
        match self.kind:
            case "flip":
                return (
                    head
                    + bytes(b ^ (1 << self.value % 8) for b in raw[at : at + 1])
                    + raw[at + 1 :]
                )
            case "set":
                return head + bytes([self.value]) * len(piece) + tail
            case "cut":
                return head + tail
            case "insert":
                return head + bytes([self.value]) * self.size + raw[at:]
            case "repeat":
                return head + piece * (2 + self.value % 8) + tail
            case "splice":
                there = int(self.place * len(other))
                return head + other[there : there + 8 * self.size] + tail
            case "number":
                number = NUMBERS[self.value % len(NUMBERS)]
                return head + number + raw[at + len(number) :]


def mutated(raw: bytes, other: bytes, changes: Sequence[Change]) -> bytes:
    """`raw` after all changes, never much longer than it was worth."""
    for change in changes:
        raw = change.of(raw, other)[:MOST_BYTES]
    return raw


def drawn(random: Random) -> list[Change]:
    """Some changes from a seeded source: mostly one small one, which gets furthest."""
    return [
        Change(random.choice(KINDS), random.random(), random.choice(_SIZES), random.randint(0, 255))
        for _ in range(random.choice(_TIMES))
    ]


changes: Final = st.lists(
    st.builds(
        Change,
        st.sampled_from(KINDS),
        st.floats(0, 1, exclude_max=True),
        st.integers(1, 32),
        st.integers(0, 255),
    ),
    min_size=1,
    max_size=5,
)
