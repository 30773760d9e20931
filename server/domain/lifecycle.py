"""The life of batches, units, vehicles and replicas: which event leads from which state to which.

The tables are the whole truth; a pair that is not in them is a bug and raises with the story. When
an event happens is decided elsewhere (`quorum`, `exchange`), what is written by storage.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from server.errors import ServerError

Table = Mapping[tuple[str, str], str]

BATCH: Final[Table] = {
    ("running", "settle"): "completed",  # every unit is done or failed
    ("running", "fail"): "failed",  # no unit gave a result
    ("running", "cancel"): "cancelled",
    ("running", "expire"): "expired",  # past its deadline
}

UNIT: Final[Table] = {
    ("open", "accept"): "done",  # a canonical result was chosen
    ("open", "fail"): "failed",  # too many errors, replicas or days
    ("open", "cancel"): "cancelled",
}

VEHICLE: Final[Table] = {
    ("active", "quarantine"): "quarantined",  # by the operator, or because its key was cloned
    ("quarantined", "release"): "active",
    ("active", "retire"): "retired",  # it left, or its owner replaced it
    ("quarantined", "retire"): "retired",
}

REPLICA: Final[Table] = {
    ("ready", "lease"): "leased",
    ("ready", "cancel"): "cancelled",  # its unit was settled without it
    ("leased", "report"): "reported",
    ("leased", "fail"): "failed",
    ("leased", "return"): "returned",
    ("leased", "end"): "lost",
    ("leased", "cancel"): "cancelled",
    ("lost", "report"): "reported",  # late, but within the share of time that is still taken
    ("reported", "accept"): "valid",
    ("reported", "reject"): "invalid",
    ("reported", "doubt"): "inconclusive",  # awaits one more
    ("reported", "drop"): "not_needed",  # its unit failed or was cancelled
    ("reported", "withdraw"): "returned",  # its vehicle has left
    ("reported", "set_aside"): "set_aside",  # its vehicle is in quarantine: no voice, but a verdict
    ("inconclusive", "accept"): "valid",
    ("inconclusive", "reject"): "invalid",
    ("inconclusive", "doubt"): "inconclusive",
    ("inconclusive", "drop"): "not_needed",
    ("inconclusive", "withdraw"): "returned",
    ("inconclusive", "set_aside"): "set_aside",
    ("set_aside", "accept"): "valid",
    ("set_aside", "reject"): "invalid",
    ("set_aside", "drop"): "not_needed",
    ("set_aside", "withdraw"): "returned",
    ("set_aside", "restore"): "reported",  # its vehicle was released
}


class ImpossibleTransition(ServerError):
    """A bug: an event that its state does not know."""

    code = "impossible_transition"


def after(table: Table, state: str, event: str) -> str:
    """The state that `event` leads to.

    Raises:
        ImpossibleTransition: the table does not have the pair.
    """
    try:
        return table[state, event]
    except KeyError:
        known = sorted(what for was, what in table if was == state)
        raise ImpossibleTransition(
            f"{event!r} happened in state {state!r}, which knows {known or 'no event'}"
        ) from None
