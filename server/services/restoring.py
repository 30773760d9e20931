"""A restored database becomes the present one (DECISIONS A.3).

Decides nothing that was not decided before the backup: batches, leases and credit are as they were. Only
the epoch is new, so that each vehicle's next request gets a resync, and what both sides hold is compared:
leases given since are aborted, results taken since are asked for again under their old lease.
"""

from __future__ import annotations

from dataclasses import replace

from server.domain.restoring import beyond
from server.ports import Database
from workunits.values import Milliseconds


def begin_epoch(database: Database, now: Milliseconds) -> int:
    """Raise the epoch above any that vehicles may have heard of; the new one."""
    with database.transaction() as repos:
        secrets = repos.meta.secrets()
        epoch = beyond(secrets.epoch, now)
        repos.meta.found(replace(secrets, epoch=epoch))
    return epoch
