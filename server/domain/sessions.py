"""Where a work request stands in its vehicle's session, and so what the server does with it (PROTOCOL 8).

Pure: what is known of the vehicle and the request go in, the course to take comes out. What the
request asks for is not looked at here.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from server.domain.records import VehicleRow
from workunits.trust import digests
from workunits.values import Digest, Milliseconds
from workunits.wire.messages import PROTOCOL_OLDEST, PROTOCOL_VERSION, WorkRequest

_NEVER: Final = Milliseconds(0)


class Course(Enum):
    UNKNOWN_VEHICLE = "unknown_vehicle"
    UPGRADE = "upgrade"
    REPORT = "report"  # as UPGRADE, but what it brings is taken
    REPEAT = "repeat"  # the stored reply again
    PROCESS = "process"  # the next of its session
    BEGIN = "begin"  # the first of a new session, which retires the old one
    CLONE = "clone"  # a retired session speaks
    RESYNC = "resync"


@dataclass(frozen=True, slots=True)
class Spoken:
    """The versions of the protocol that this server speaks."""

    oldest: int = PROTOCOL_OLDEST
    newest: int = PROTOCOL_VERSION
    # Reports in versions that are no longer spoken are taken until then.
    old_reports_until_ms: Milliseconds = _NEVER

    def includes(self, version: int) -> bool:
        return self.oldest <= version <= self.newest

    def takes_reports(self, version: int, now: Milliseconds) -> bool:
        """Whether work that was given out under `version` is still taken, though it is not spoken."""
        return version < self.oldest and now < self.old_reports_until_ms


def course(
    vehicle: VehicleRow | None,
    request: WorkRequest,
    digest: Digest,
    epoch: int,
    *,
    is_retired: bool,
    spoken: Spoken,
    now: Milliseconds,
) -> Course:
    """What to do with `request`, whose payload has `digest`; `is_retired` is about its session."""
    if vehicle is None:
        return Course.UNKNOWN_VEHICLE
    is_in_session = request.session == vehicle.session
    if not spoken.includes(request.protocol):
        is_next = is_in_session and _in_session(vehicle, request, digest, epoch) is Course.PROCESS
        takes = is_next and spoken.takes_reports(request.protocol, now)
        return Course.REPORT if takes else Course.UPGRADE
    if is_in_session:
        return _in_session(vehicle, request, digest, epoch)
    if is_retired:
        return Course.CLONE
    return Course.BEGIN if _answers_resync(vehicle, request, epoch) else Course.RESYNC


def may_be_retired(vehicle: VehicleRow | None, request: WorkRequest) -> bool:
    """Whether `course` needs to know if the request's session is a retired one."""
    return vehicle is not None and request.session != vehicle.session


def _in_session(vehicle: VehicleRow, request: WorkRequest, digest: Digest, epoch: int) -> Course:
    if vehicle.last_reply is not None and digest == vehicle.last_digest:
        return Course.REPEAT
    follows = request.seq == vehicle.seq + 1 and request.previous == vehicle.last_digest
    return Course.PROCESS if follows and request.epoch == epoch else Course.RESYNC


def _answers_resync(vehicle: VehicleRow, request: WorkRequest, epoch: int) -> bool:
    return (
        request.seq == 1
        and request.previous == digests.ZERO
        and request.nonce is not None
        and request.nonce == vehicle.nonce
        and request.epoch == epoch
    )
