"""The life of a unit in the vehicle's hands, and of a request: every transition there is.

Decides which state follows which cause, and nothing else; a pair that is not in the table raises
with the story so far. Files, threads and clocks are the driver's.
"""

from __future__ import annotations

from typing import Final, Literal

from tesla_at_home.errors import TeslaAtHomeError

# leased: granted, not yet proved. fetching: proved, files missing. ready: can be computed.
# computing and stopped: in the child. computed: its output is a file that must go up first.
# uploading: on its way. to_report: the next request speaks of it. quarantined: the project refused
# the report three times; kept on disk, told the owner, and tried again a day later. dropped: gone,
# with its files.
UnitState = Literal[
    "leased", "fetching", "ready", "computing", "stopped", "computed", "uploading", "to_report",
    "quarantined", "dropped",
]  # fmt: skip
UnitCause = Literal[
    "proved", "refused", "complete", "started", "gate_closed", "gate_opened", "child_gone",
    "finished", "finished_large", "upload_started", "upload_ended", "uploaded", "failed", "returned",
    "restarted", "receipted", "payload_missing", "aborted", "quarantined", "tried_again", "damaged",
    "output_lost",
]  # fmt: skip

UNIT: Final[dict[tuple[UnitState, UnitCause], UnitState]] = {
    ("leased", "proved"): "fetching",
    ("leased", "refused"): "to_report",
    ("fetching", "complete"): "ready",
    ("ready", "started"): "computing",
    ("computing", "gate_closed"): "stopped",
    ("stopped", "gate_opened"): "computing",
    ("computing", "child_gone"): "ready",
    ("stopped", "child_gone"): "ready",
    ("computing", "finished"): "to_report",
    ("computing", "finished_large"): "computed",
    # The last frames of a child that was stopped a moment too late.
    ("stopped", "finished"): "to_report",
    ("stopped", "finished_large"): "computed",
    ("computed", "upload_started"): "uploading",
    ("uploading", "upload_ended"): "computed",
    ("uploading", "uploaded"): "to_report",
    # The output is not what was computed any more: put together again from the spool.
    ("uploading", "output_lost"): "ready",
    # A file of the unit is not what was fetched any more: forgotten, proved and fetched again.
    ("ready", "damaged"): "leased",
    ("computing", "damaged"): "leased",
    ("stopped", "damaged"): "leased",
    ("computing", "failed"): "to_report",
    ("stopped", "failed"): "to_report",
    ("ready", "failed"): "to_report",
    ("leased", "returned"): "to_report",
    ("fetching", "returned"): "to_report",
    ("ready", "returned"): "to_report",
    ("computing", "returned"): "to_report",
    ("stopped", "returned"): "to_report",
    ("computed", "returned"): "to_report",
    ("uploading", "returned"): "to_report",
    ("leased", "restarted"): "leased",
    ("fetching", "restarted"): "leased",
    ("ready", "restarted"): "leased",
    ("computing", "restarted"): "leased",
    ("stopped", "restarted"): "leased",
    ("uploading", "restarted"): "computed",
    ("to_report", "receipted"): "dropped",
    ("quarantined", "receipted"): "dropped",
    ("quarantined", "tried_again"): "to_report",
    ("to_report", "payload_missing"): "computed",
    ("to_report", "quarantined"): "quarantined",
    ("leased", "aborted"): "dropped",
    ("fetching", "aborted"): "dropped",
    ("ready", "aborted"): "dropped",
    ("computing", "aborted"): "dropped",
    ("stopped", "aborted"): "dropped",
    ("computed", "aborted"): "dropped",
    ("uploading", "aborted"): "dropped",
    ("to_report", "aborted"): "dropped",
    ("quarantined", "aborted"): "dropped",
}

# States that a fresh process cannot go on from: their child or transfer is gone.
RESTARTED: Final[frozenset[UnitState]] = frozenset(
    {"leased", "fetching", "ready", "computing", "stopped", "uploading"}
)
# Not yet computed: what the buffer counts, and what can still be returned.
PENDING: Final[frozenset[UnitState]] = frozenset(
    {"leased", "fetching", "ready", "computing", "stopped"}
)
IN_CHILD: Final[frozenset[UnitState]] = frozenset({"computing", "stopped"})

# idle: nothing said. saved: a request is on disk and is repeated until a signed answer. sending: it
# is on its way. enrolling: the project does not know this key any more. outdated: the project wants
# a newer client.
TalkState = Literal["idle", "saved", "sending", "enrolling", "outdated"]
TalkCause = Literal[
    "made", "sent", "failed", "replied", "resync", "unknown_vehicle", "upgrade_required",
    "split", "enrolled", "asked_again",
]  # fmt: skip

TALK: Final[dict[tuple[TalkState, TalkCause], TalkState]] = {
    ("idle", "made"): "saved",
    ("saved", "sent"): "sending",
    ("sending", "failed"): "saved",
    ("sending", "replied"): "idle",
    ("sending", "resync"): "idle",
    ("sending", "unknown_vehicle"): "enrolling",
    ("sending", "upgrade_required"): "outdated",
    ("sending", "split"): "idle",
    ("enrolling", "failed"): "enrolling",
    ("enrolling", "enrolled"): "idle",
    ("outdated", "asked_again"): "idle",
}


class NoSuchTransition(TeslaAtHomeError):
    """A bug: something happened that cannot happen in this state. Carries the story."""

    code = "no_such_transition"


def next_unit(state: UnitState, cause: UnitCause, story: tuple[str, ...]) -> UnitState:
    """The state after `cause`."""
    try:
        return UNIT[state, cause]
    except KeyError:
        told = "; ".join(story)
        raise NoSuchTransition(f"a unit that is {state} cannot be {cause}: {told}") from None


def next_talk(state: TalkState, cause: TalkCause) -> TalkState:
    """The state after `cause`."""
    try:
        return TALK[state, cause]
    except KeyError:
        raise NoSuchTransition(f"an exchange that is {state} cannot be {cause}") from None
