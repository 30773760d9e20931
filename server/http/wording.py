"""The plain words that pages and the command line's sentences use, in one table.

Code, JSON and the API keep the words of the design (unit, replica, valid, ...); people read these.
A word that is missing here is shown as its code with spaces, so that nothing is ever blank.
"""

from __future__ import annotations

from math import floor, log10
from typing import Final

from workunits.values import KFLOP_PER_COBBLESTONE

BATCH: Final = {
    "running": "in progress",
    "completed": "finished",
    "failed": "finished, with failed rows",
    "cancelled": "cancelled",
    "expired": "past its deadline",
}
UNIT: Final = {
    "open": "in progress",
    "done": "accepted",
    "failed": "given up",
    "cancelled": "cancelled",
}
REPLICA: Final = {
    "ready": "waiting for a car",
    "leased": "with a car",
    "reported": "being checked",
    "valid": "accepted",
    "invalid": "not accepted",
    "inconclusive": "being checked, one more car was asked",
    "set_aside": "kept, but its car is paused and has no voice",
    "failed": "could not be computed",
    "returned": "handed back",
    "lost": "not heard of in time",
    "cancelled": "no longer needed",
    "not_needed": "no longer needed",
}
VEHICLE: Final = {
    "active": "active",
    "quarantined": "paused by the project",
    "retired": "retired",
}
WAITING: Final = {
    "second_owner": "waits for a second owner",
    "vehicle": "waits for a car",
    "check": "is being checked",
}
PERIOD: Final = {"30d": "Last 30 days", "all": "All time"}

CREDIT_NOTE: Final = (
    "Credit counts accepted work: 1 credit is 432 thousand million calculations, which a car's "
    "answer earns once it has been checked. µ stands for millionths, m for thousandths, k for "
    "thousands, M for millions."
)
OPT_IN_NOTE: Final = (
    "Only owners who chose to be shown are listed, under the name they picked. Nobody sees where a "
    "car is, or when it works."
)
NOBODY_YET: Final = "Nobody has credit for this period yet."
NOBODY_YET_MORE: Final = (
    "Credit appears when a second car has confirmed an answer. Owners join with: tesla-at-home join"
)
NOT_FOUND: Final = "There is no page here."
NOT_FOUND_MORE: Final = "The link may be old, or the owner has made the page private."
OUR_FAULT: Final = "This page cannot be shown at the moment."
OUR_FAULT_MORE: Final = (
    "The fault is ours. Cars keep computing and hand in their results afterwards."
)
DISCLAIMER: Final = "Not connected with Tesla, Inc."

_PREFIXES: Final = {-2: "µ", -1: "m", 0: "", 1: "k", 2: "M", 3: "G", 4: "T"}


def say(table: dict[str, str], code: str) -> str:
    """The plain words for `code`."""
    return table.get(code) or code.replace("_", " ")


def credit(kflop: int) -> str:
    """Credit as people read it: three digits and an SI prefix, such as `37.4 m` or `1.20 k`."""
    return si(kflop / KFLOP_PER_COBBLESTONE)


def si(value: float) -> str:
    """A number with three digits and an SI prefix; below a millionth it still counts millionths."""
    if value == 0:
        return "0"
    power = min(max(floor(log10(abs(value)) / 3), min(_PREFIXES)), max(_PREFIXES))
    text = _three_digits(value / 1000**power)
    if text in ("1000", "-1000") and power < max(_PREFIXES):
        power, text = power + 1, _three_digits(value / 1000 ** (power + 1))
    return f"{text} {_PREFIXES[power]}".rstrip()


def count(number: int) -> str:
    """A count with thousands parted by commas."""
    return f"{number:,}"


def _three_digits(scaled: float) -> str:
    size = abs(scaled)
    decimals = 2 if size < 9.995 else 1 if size < 99.95 else 0
    return f"{scaled:.{decimals}f}"
