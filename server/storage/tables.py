"""The tables, their guards and their indexes (SQLAlchemy Core; SQLite now, PostgreSQL later).

Ids and digests are raw bytes, times whole milliseconds since the epoch, credit whole kFLOP. The
states are those of `server.domain.lifecycle`. Every query that runs per request has an index over
what is open only (partial indexes), so that its cost does not grow with the history.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

metadata = MetaData()

# SQLite gives rowid tables 64-bit keys only under the type INTEGER.
_Key = BigInteger().with_variant(Integer, "sqlite")

meta = Table(
    "meta",
    metadata,
    Column("key", String, primary_key=True),
    Column("value", LargeBinary, nullable=False),
)

owners = Table(
    "owners",
    metadata,
    Column("id", LargeBinary, primary_key=True),
    Column("name", String, nullable=False),
    Column("name_key", String, nullable=False, unique=True),  # names that look alike share it
    Column("is_public", Boolean, nullable=False),
    Column("code_digest", LargeBinary, unique=True),
    Column("state", String, nullable=False),  # active, erased
    Column("created_ms", BigInteger, nullable=False),
    Column("credit_kflop", BigInteger, nullable=False, server_default="0"),
    Column("month_kflop", BigInteger, nullable=False, server_default="0"),  # the last 30 days
    # The leaderboard's own order, so that a page is read and never sorted.
    Index("owners_by_credit", "is_public", text("credit_kflop DESC"), "name"),
    Index("owners_by_month", "is_public", text("month_kflop DESC"), "name"),
)

vehicles = Table(
    "vehicles",
    metadata,
    Column("id", LargeBinary, primary_key=True),  # KeyId
    Column("owner_id", LargeBinary, ForeignKey("owners.id"), nullable=False),
    Column("public_key", LargeBinary, nullable=False),
    Column("name", String, nullable=False),
    Column("state", String, nullable=False),  # active, quarantined, retired
    Column("state_reason", String),
    Column("client", String, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("seen_ms", BigInteger, nullable=False),
    # Exactly once (PROTOCOL 8): where this vehicle's session stands, and its last reply to repeat.
    Column("session", LargeBinary, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("last_digest", LargeBinary, nullable=False),
    Column("last_reply", LargeBinary),
    Column("nonce", LargeBinary),
    Column("valid", Integer, nullable=False, server_default="0"),
    Column("invalid", Integer, nullable=False, server_default="0"),
    Column("credit_kflop", BigInteger, nullable=False, server_default="0"),
    # Leases handed back within an hour from then on; a vehicle that only takes and returns rests.
    Column("returns", Integer, nullable=False, server_default="0"),
    Column("returns_since_ms", BigInteger, nullable=False, server_default="0"),
    # The failure brake (`server.domain.brake`).
    Column("halvings", Integer, nullable=False, server_default="0"),
    Column("lost_in_row", Integer, nullable=False, server_default="0"),
    Column("paused_until_ms", BigInteger, nullable=False, server_default="0"),
    Index("vehicles_by_owner", "owner_id"),
)

retired_sessions = Table(
    "retired_sessions",
    metadata,
    Column("vehicle_id", LargeBinary, primary_key=True),
    Column("session", LargeBinary, primary_key=True),
    Column("retired_ms", BigInteger, nullable=False),
    Index("retired_sessions_by_age", "retired_ms"),
)

clone_signs = Table(
    "clone_signs",
    metadata,
    Column("id", _Key, primary_key=True),
    Column("vehicle_id", LargeBinary, nullable=False),
    Column("request", LargeBinary, nullable=False),  # digest; repeated, it is the same sign
    Column("at_ms", BigInteger, nullable=False),
    UniqueConstraint("vehicle_id", "request"),
    Index("clone_signs_by_age", "at_ms"),
)

consents = Table(
    "consents",
    metadata,
    Column("id", _Key, primary_key=True),
    Column("vehicle_id", LargeBinary, nullable=False),
    Column("terms", LargeBinary, nullable=False),
    Column("version", String, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("scopes", Text, nullable=False),  # space separated
    Column("recorded_ms", BigInteger, nullable=False),
    # Digest of the enrolment that brought it: one that was followed by another counts no more.
    Column("request", LargeBinary, nullable=False),
    UniqueConstraint("vehicle_id", "request"),
)

# Signed confirmations to repeat; they name nobody.
departures = Table(
    "departures",
    metadata,
    Column("request", LargeBinary, primary_key=True),
    Column("reply", LargeBinary, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Index("departures_by_age", "at_ms"),
)

# Keys of erased vehicles as keyed hashes: none of them may come back as somebody else.
left_keys = Table(
    "left_keys",
    metadata,
    Column("mark", LargeBinary, primary_key=True),
    Column("at_ms", BigInteger, nullable=False),
)

# For the hourly limit per network; prefixes are keyed hashes and rows are swept after an hour.
enrolment_attempts = Table(
    "enrolment_attempts",
    metadata,
    Column("id", _Key, primary_key=True),
    Column("prefix", LargeBinary, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Index("enrolment_attempts_by_prefix", "prefix", "at_ms"),
    Index("enrolment_attempts_by_age", "at_ms"),
)

invites = Table(
    "invites",
    metadata,
    Column("digest", LargeBinary, primary_key=True),
    Column("created_ms", BigInteger, nullable=False),
    Column("used_by", LargeBinary),
)

models = Table(
    "models",
    metadata,
    Column("name", String, primary_key=True),
    Column("digest", LargeBinary, nullable=False),  # plain SHA-256
    Column("size", BigInteger, nullable=False),
    Column("facts", LargeBinary, nullable=False),  # ModelFacts as JSON
    Column("state", String, nullable=False),  # active, retired
    Column("added_ms", BigInteger, nullable=False),
)

batches = Table(
    "batches",
    metadata,
    Column("id", LargeBinary, primary_key=True),
    Column("model_name", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("options", LargeBinary, nullable=False),  # JSON: class names, top, scores, source file
    Column("state", String, nullable=False),
    Column("quorum", Integer, nullable=False),
    Column("assurance", String, nullable=False),
    Column("units", BigInteger, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("units_done", BigInteger, nullable=False, server_default="0"),
    Column("units_failed", BigInteger, nullable=False, server_default="0"),
    Column("rows_failed", BigInteger, nullable=False, server_default="0"),
    Column("kflop_per_row", BigInteger, nullable=False),
    Column("lease_s", Integer, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("deadline_ms", BigInteger, nullable=False),
    Column("ended_ms", BigInteger),
    Column("manifest", LargeBinary, nullable=False),  # digest; the blob holds the packed envelope
    Column("tree", String, nullable=False),  # blob with the levels of the Merkle tree
    # After the end, the rest of the units is closed in blocks; up to which index that was done.
    Column("settled_to", BigInteger, nullable=False, server_default="0"),
    Index("batches_running", "created_ms", sqlite_where=text("state = 'running'"),
          postgresql_where=text("state = 'running'")),
    Index("batches_unsettled", "created_ms",
          sqlite_where=text("state <> 'running' AND settled_to < units"),
          postgresql_where=text("state <> 'running' AND settled_to < units")),
    Index("batches_by_age", "created_ms"),
)  # fmt: skip

units = Table(
    "units",
    metadata,
    Column("id", _Key, primary_key=True),
    Column("batch_id", LargeBinary, ForeignKey("batches.id"), nullable=False),
    Column("idx", BigInteger, nullable=False),
    Column("first_row", BigInteger, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),  # the leaf's bytes
    Column("state", String, nullable=False),
    Column("needs_check", Boolean, nullable=False, server_default=text("0")),
    # Ever made, without returned ones and an owner's repeated lapses.
    Column("replicas", Integer, nullable=False),
    Column("errors", Integer, nullable=False, server_default="0"),
    Column("failure", String),  # why it failed, a code
    Column("canonical_id", BigInteger),  # of the replica
    Column("output", LargeBinary),  # digest of the canonical payload
    UniqueConstraint("batch_id", "idx"),
    Index("units_to_check", "id", sqlite_where=text("needs_check = 1"),
          postgresql_where=text("needs_check")),
)  # fmt: skip

replicas = Table(
    "replicas",
    metadata,
    Column("id", _Key, primary_key=True),
    Column("unit_id", BigInteger, ForeignKey("units.id"), nullable=False),
    Column("batch_id", LargeBinary, nullable=False),
    Column("state", String, nullable=False),
    # Whose voice this replica is; emptied when it ends without a result, so that the owner may
    # try the unit again. UNIQUE(unit, owner) is the guard that nobody has two voices.
    Column("owner_id", LargeBinary),
    Column("vehicle_id", LargeBinary),
    Column("lease_id", LargeBinary),
    Column("leased_ms", BigInteger),
    Column("deadline_ms", BigInteger),
    Column("ended_ms", BigInteger),
    Column("output", LargeBinary),
    Column("output_size", BigInteger),
    Column("code", String),  # why it failed, was returned or refused
    Column("detail", String),
    Column("residual", String),  # largest difference to the canonical result, in sigma
    Column("runtime", String),
    Column("compute_ms", BigInteger),
    Column("kflop", BigInteger),  # credit granted
    Column("untold", Boolean, nullable=False, server_default=text("0")),  # verdict not yet sent
    # Its owner had let a lease of this unit lapse before, or it failed in quarantine: it does not count.
    Column("is_repeat", Boolean, nullable=False, server_default=text("0")),
    UniqueConstraint("unit_id", "owner_id"),  # also finds the replicas of a unit
    Index("replicas_by_lease", "lease_id", unique=True,
          sqlite_where=text("lease_id IS NOT NULL"),
          postgresql_where=text("lease_id IS NOT NULL")),
    Index("replicas_ready", "batch_id", "id", sqlite_where=text("state = 'ready'"),
          postgresql_where=text("state = 'ready'")),
    Index("replicas_leased", "deadline_ms", sqlite_where=text("state = 'leased'"),
          postgresql_where=text("state = 'leased'")),
    Index("replicas_held", "vehicle_id", sqlite_where=text("state = 'leased'"),
          postgresql_where=text("state = 'leased'")),
    # For leaving only: the results that wait and, with erase, every trace of the key. It is written
    # once in a replica's life, and never when it is leased.
    Index("replicas_of_vehicle", "vehicle_id",
          sqlite_where=text("state <> 'leased' AND vehicle_id IS NOT NULL"),
          postgresql_where=text("state <> 'leased' AND vehicle_id IS NOT NULL")),
    Index("replicas_untold", "vehicle_id", sqlite_where=text("untold = 1"),
          postgresql_where=text("untold")),
    # Only what is a blob (`limits.ATTACHMENT_BYTES`): whether it may be deleted is asked of these.
    Index("replicas_by_large_output", "output", sqlite_where=text("output_size > 65536"),
          postgresql_where=text("output_size > 65536")),
)  # fmt: skip

# Inputs and outputs small enough to ride along; larger ones are blobs (`server.domain.names`).
payloads = Table(
    "payloads",
    metadata,
    Column("digest", LargeBinary, primary_key=True),
    Column("raw", LargeBinary, nullable=False),
)

uploads = Table(
    "uploads",
    metadata,
    Column("lease_id", LargeBinary, primary_key=True),
    Column("digest", LargeBinary, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("is_complete", Boolean, nullable=False),
    Column("touched_ms", BigInteger, nullable=False),
    Column("vehicle_id", LargeBinary),  # whose quota it takes
    Index("uploads_by_age", "touched_ms"),
    Index("uploads_by_vehicle", "vehicle_id"),
)

ledger = Table(
    "ledger",
    metadata,
    Column("id", _Key, primary_key=True),
    Column("at_ms", BigInteger, nullable=False),
    Column("owner_id", LargeBinary, nullable=False),
    Column("vehicle_id", LargeBinary),
    Column("replica_id", BigInteger, nullable=False),
    Column("kflop", BigInteger, nullable=False),
    Column("reason", String, nullable=False),
    # Credit once per valid result, whatever is repeated.
    UniqueConstraint("replica_id", "reason"),
    Index("ledger_by_owner", "owner_id", "at_ms"),
)

# Credit per owner and UTC day, kept in the crediting transaction; feeds the 30-day standings.
owner_days = Table(
    "owner_days",
    metadata,
    Column("day", Integer, primary_key=True),  # days since the epoch
    Column("owner_id", LargeBinary, primary_key=True),
    Column("kflop", BigInteger, nullable=False),
)
