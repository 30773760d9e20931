"""The project's constants, each with its reason (DESIGN section 9). Values only.

Maxima that both sides must know stand in `workunits.wire.limits`; reading `project.toml` is
`server.adapters.settings_file`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

DAY_S: Final = 86_400
DAY_MS: Final = DAY_S * 1000
HOUR_MS: Final = 3_600_000

# --- acceptance ---------------------------------------------------------------------------------

# Two owners must agree: the smallest number that catches one false result.
QUORUM: Final = 2
# A unit that eight vehicles could not settle is more likely broken than unlucky.
REPLICAS_PER_UNIT: Final = 8
# Four vehicles that fail on the same rows point at the rows.
ERRORS_PER_UNIT: Final = 4

# --- cutting and leasing ------------------------------------------------------------------------

# About ten minutes on the median vehicle for a mid-sized model, and a proof of a dozen hashes.
ROWS_PER_UNIT: Final = 256
# A car that is away over a long weekend still brings its results in time.
LEASE_S: Final = 72 * 3600
URGENT_LEASE_S: Final = 24 * 3600
# A result that comes late is still work done: it is taken for this share of the lease's duration.
LATE_SHARE: Final = 0.5
# One vehicle holds no more than it could lose without hurting the batch.
HELD_LEASES: Final = 50
BATCH_DEADLINE_S: Final = 14 * DAY_S

# --- dispatch -----------------------------------------------------------------------------------

# Ready replicas read at once; large enough that one read serves many gatherings.
READY_BLOCK: Final = 1_024
# Ready replicas of one batch kept in memory: some 20 MB with their leaves.
READY_WINDOW: Final = 32_768
# Ready replicas looked at for one request; what it may not take is passed over once, not each time.
READY_EXAMINED: Final = 512
# Running batches looked at for one request.
BATCHES_EXAMINED: Final = 64
# Places kept in memory, one for each owner and batch that met; the oldest are forgotten.
CURSORS: Final = 200_000

# Twice what a vehicle may hold: a car that drives off gives all of it back, and once more
# when it is fetched from the next stop. Beyond that it gets no leases until the hour is over.
RETURNS_PER_HOUR: Final = 100

# The failure brake: every error halves what a vehicle may hold at once, every valid result doubles it.
# A computer that loses five units in a row is broken, asleep or away for long; a day later the next
# unit is one lost at most.
LOST_IN_ROW_TO_PAUSE: Final = 5
LOST_PAUSE_MS: Final = DAY_MS
# An error when only one unit is given at a time: about the time of a unit, so that a computer on which
# everything fails costs the others a few errors an hour, and a bad batch does not stop the fleet.
ERROR_REST_MS: Final = 600_000

# --- waiting ------------------------------------------------------------------------------------

# Nothing to do: look again in ten minutes; the client doubles up to a day by itself.
NO_WORK_WAIT_S: Final = 600
# A project that only this computer can reach has no fleet to spread; whoever tries it out waits.
TRIAL_WAIT_S: Final = 5
# Work was given, so the next contact is the vehicle's business; this only spreads the load.
WORK_WAIT_S: Final = 0

# --- joining ------------------------------------------------------------------------------------

# Outside loopback; enough for a household's cars, too few for a farm of invented owners.
ENROLMENTS_PER_HOUR: Final = 10
# The same for a whole provider (/16 or /32), and for everybody: what comes through many networks at
# once fills no disk, and a project that is in the news takes in 48,000 a day.
ENROLMENTS_PER_HOUR_OF_PROVIDER: Final = 200
ENROLMENTS_PER_HOUR_IN_ALL: Final = 2_000
# Of one key in its life, each with its record of consent. A client enrols again when the server was
# restored or the terms have changed.
ENROLMENTS_PER_VEHICLE: Final = 100
NAME_TRIES: Final = 8  # free pseudonyms tried before asking the owner for one

# --- exactly once -------------------------------------------------------------------------------

RETIRED_SESSIONS_KEPT_MS: Final = DAY_MS
# And so many of each vehicle: a clone shows itself in the last ones.
RETIRED_SESSIONS_KEPT: Final = 32
# A client restored from a backup speaks once under a retired session; a cloned key goes on.
CLONE_SIGNS_TO_QUARANTINE: Final = 3
CLONE_SIGNS_KEPT_MS: Final = DAY_MS
# Longer than any lease with the time its result may be late, for cars whose owners update rarely.
OLD_REPORTS_TAKEN_MS: Final = 30 * DAY_MS
# Confirmations of leaving, for who has not heard theirs; a car may stand in a cellar for weeks.
DEPARTURES_KEPT_MS: Final = 30 * DAY_MS

# --- background work ----------------------------------------------------------------------------

# Units validated in one transaction: long enough to share a commit, short for a waiting request.
UNITS_PER_CHECK: Final = 64
# Outputs of those units together, so that memory stays flat with large outputs.
BYTES_PER_CHECK: Final = 256 * 1024 * 1024
# Leases ended in one transaction by the sweep.
LEASES_PER_SWEEP: Final = 500
# Units of an ended batch closed in one transaction: some 50 ms.
UNITS_PER_SWEEP: Final = 1_000
# Uploads nobody has touched since: longer than the longest transfer back-off of a client (6 h).
UPLOADS_KEPT_MS: Final = 7 * DAY_MS
# Half-written blobs older than the slowest writer there is.
PASSING_KEPT_MS: Final = DAY_MS

# --- uploads ------------------------------------------------------------------------------------

# Announced by one vehicle and not yet named by a result: eight of the largest. A client sends one
# after the other and reports each when it is complete.
UPLOAD_BYTES_PER_VEHICLE: Final = 2 * 1024**3
# And by all of them: a vehicle that waits costs less than a full disk, which stops everybody.
UPLOAD_BYTES_IN_ALL: Final = 64 * 1024**3

# --- strangers ----------------------------------------------------------------------------------

# Of one network in a minute; an honest client sends none, and each costs a tenth of a millisecond.
BAD_SIGNATURES_PER_MINUTE: Final = 60
# Twenty such networks of one provider: its other customers are still read.
BAD_SIGNATURES_PER_PROVIDER: Final = 20 * BAD_SIGNATURES_PER_MINUTE
# Networks remembered for that: a few hundred KB.
NETWORKS_REMEMBERED: Final = 4_096

# --- standings ----------------------------------------------------------------------------------

STANDING_DAYS: Final = 30
STANDINGS_PER_PAGE: Final = 50

# --- serve ---------------------------------------------------------------------------------------

# Validation is woken by reports; this is for what nobody woke it for, such as its own failure.
VALIDATE_EVERY_S: Final = 5.0
# Reports that come one after the other are validated together: fewer commits, and nobody waits.
VALIDATE_REST_S: Final = 0.05
# How late a lease's end, a deadline or a forgotten upload may be noticed.
SWEEP_EVERY_S: Final = 5.0
# Every role of the metadata lives for at least a day.
METADATA_EVERY_S: Final = 3600.0
# Only a kill or a power cut leaves files that nothing names, and `serve` begins with a look.
TIDY_EVERY_S: Final = 24 * 3600.0
# How soon `serve` sees what a local command has committed.
NOTICE_EVERY_S: Final = 1.0

# Bodies of messages held at once for all callers together, known or not: 16 of the largest messages,
# or some 10,000 usual ones, and a small part of a small machine's memory.
BODIES_BYTES: Final = 128 * 1024 * 1024

# --- the database -------------------------------------------------------------------------------

DATABASE_FILE: Final = "server.sqlite3"
# A local command may hold the write lock while it publishes a batch.
BUSY_TIMEOUT_MS: Final = 30_000

# --- project.toml -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ProjectSettings:
    """What the operator decides; `init` writes it, `adapters.settings_file` reads it."""

    name: str
    sign_up: str = "open"  # open, invite
    public_address: str | None = None  # where owners reach the project, behind a proxy
