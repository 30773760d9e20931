"""The reply to one work request, put together from what the services said.

Decides how long a vehicle is asked to wait and what its owner is told; everything else in a reply
was decided before.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import Final

from server import settings
from server.domain.records import BatchRow, ProjectSecrets, VehicleRow
from server.domain.sessions import Spoken
from server.domain.work import HeldRow, UntoldVerdict
from server.services.conduct import Conduct
from server.services.leasing import Granted
from server.services.manifests import Manifests
from workunits.values import Digest, LeaseId, Milliseconds
from workunits.wire import limits
from workunits.wire.messages import (
    Abort,
    Lease,
    Receipt,
    Reply,
    UpgradeRequired,
    Verdict,
    WorkRequest,
)

_TICKET_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Work:
    """What the services said to one request."""

    receipts: tuple[Receipt, ...]
    leases: tuple[Lease, ...]
    aborts: tuple[Abort, ...]
    verdicts: tuple[Verdict, ...]
    conduct: Conduct


class Replies:
    def __init__(self, manifests: Manifests, no_work_wait_s: int) -> None:
        self._manifests = manifests
        self._no_work_wait_s = no_work_wait_s

    def reply(
        self,
        request: WorkRequest,
        digest: Digest,
        vehicle: VehicleRow,
        work: Work,
        epoch: int,
        now: Milliseconds,
    ) -> Reply:
        wished = request.wish is not None and request.wish.units > 0
        in_vain = wished and not work.leases
        return Reply(
            in_reply_to=digest,
            server_time=now,
            epoch=epoch,
            wait_s=self._no_work_wait_s if in_vain else settings.WORK_WAIT_S,
            has_work=bool(work.leases),
            receipts=work.receipts,
            verdicts=work.verdicts,
            leases=work.leases,
            aborts=work.aborts,
            notice=_notice(vehicle, work.conduct, now),
        )

    def granted(self, granted: Granted, secrets: ProjectSecrets) -> Lease:
        """A new lease."""
        grant, replica, batch = granted.grant, granted.replica, granted.batch
        duration_s = (grant.deadline_ms - grant.leased_ms) // 1000
        return self._lease(grant.lease_id, replica.idx, replica.body, batch, duration_s, secrets)

    def held(
        self, row: HeldRow, batch: BatchRow, secrets: ProjectSecrets, now: Milliseconds
    ) -> Lease:
        """A lease that the vehicle has lost, with the time that is left.

        Never more than it had: if this server's clock was set back, it looks like more, and a length
        past the limit would make the whole reply unreadable.
        """
        left_s = min((row.deadline_ms - now) // 1000, batch.lease_s)
        return self._lease(row.lease_id, row.idx, row.body, batch, left_s, secrets)

    def _lease(
        self,
        lease: LeaseId,
        idx: int,
        body: bytes,
        batch: BatchRow,
        duration_s: int,
        secrets: ProjectSecrets,
    ) -> Lease:
        return Lease(
            lease=lease,
            manifest=batch.manifest,
            unit=body,
            proof=self._manifests.proof(batch, idx),
            duration_s=duration_s,
            ticket=ticket(secrets.ticket_key, lease),
        )


def ticket(key: bytes, lease: LeaseId) -> bytes:
    """What opens the upload of a lease's output; nobody else can make it (PROTOCOL 10)."""
    return hmac.new(key, lease, hashlib.sha256).digest()[:_TICKET_BYTES]


def verdict(row: UntoldVerdict) -> Verdict:
    if row.state == "valid":
        return Verdict(lease=row.lease_id, verdict="valid", kflop=row.kflop)
    return Verdict(
        lease=row.lease_id, verdict="invalid" if row.state == "invalid" else "inconclusive"
    )


def upgrade(request: Digest, now: Milliseconds, spoken: Spoken) -> UpgradeRequired:
    return UpgradeRequired(
        in_reply_to=request, server_time=now, oldest=spoken.oldest, newest=spoken.newest
    )


def _notice(vehicle: VehicleRow, conduct: Conduct, now: Milliseconds) -> str | None:
    if vehicle.state == "active":
        return conduct.notice(now)
    reason = f": {vehicle.state_reason}" if vehicle.state_reason else ""
    return f"this vehicle is {vehicle.state} and gets no work{reason}"[: limits.TEXT_CHARS]
