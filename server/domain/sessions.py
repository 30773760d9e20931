"""Where a work request stands in its vehicle's session, and so what the server does with it (PROTOCOL 8).

Pure: what is known of the vehicle and the request go in, the course to take comes out. What the
request asks for is not looked at here.
"""

from __future__ import annotations

from enum import Enum

from server.domain.records import VehicleRow
from workunits.trust import digests
from workunits.values import Digest
from workunits.wire.messages import PROTOCOL_OLDEST, PROTOCOL_VERSION, WorkRequest


class Course(Enum):
    UNKNOWN_VEHICLE = "unknown_vehicle"
    UPGRADE = "upgrade"
    REPEAT = "repeat"  # the stored reply again
    PROCESS = "process"  # the next of its session
    BEGIN = "begin"  # the first of a new session, which retires the old one
    CLONE = "clone"  # a retired session speaks
    RESYNC = "resync"


def course(
    vehicle: VehicleRow | None,
    request: WorkRequest,
    digest: Digest,
    epoch: int,
    *,
    is_retired: bool,
) -> Course:
    """What to do with `request`, whose payload has `digest`; `is_retired` is about its session."""
    if vehicle is None:
        return Course.UNKNOWN_VEHICLE
    if not PROTOCOL_OLDEST <= request.protocol <= PROTOCOL_VERSION:
        return Course.UPGRADE
    if request.session == vehicle.session:
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
