"""Sessions that do not fit: the way back for an honest client, the sign of a cloned key (PROTOCOL 8.5).

A resync changes nothing but the nonce that is offered, and under a retired session the count of
signs; the third different one in a day quarantines the vehicle.
"""

from __future__ import annotations

from typing import Final

from server import settings
from server.domain.records import VehicleRow
from server.ports import Randomness, Repositories, Sealer
from server.services.attachments import Answer
from server.services.quarantine import quarantine
from workunits.trust import roles
from workunits.values import ID_BYTES, Digest, Milliseconds, Nonce
from workunits.wire.messages import Resync

CLONED: Final = "its key speaks from two places; join again with a new key on each computer"


class Resyncing:
    def __init__(self, sealer: Sealer, randomness: Randomness) -> None:
        self._sealer = sealer
        self._randomness = randomness

    def answer(
        self,
        repos: Repositories,
        vehicle: VehicleRow,
        request: Digest,
        epoch: int,
        now: Milliseconds,
        *,
        is_clone: bool,
    ) -> Answer:
        # In quarantine it is already, so that further signs would only fill the disk.
        if is_clone and vehicle.state == "active":
            self._note_clone(repos, vehicle, request, now)
        resync = Resync(
            in_reply_to=request,
            server_time=now,
            nonce=self._nonce(repos, vehicle),
            epoch=epoch,
            last_seq=vehicle.seq,
            last=vehicle.last_digest,
        )
        return Answer(self._sealer.seal(resync, roles.RESYNC))

    def _nonce(self, repos: Repositories, vehicle: VehicleRow) -> Nonce:
        """The one that is offered already, so that a repeated request finds the same way back."""
        if vehicle.nonce is not None:
            return vehicle.nonce
        nonce = Nonce(self._randomness.token(ID_BYTES))
        repos.vehicles.offer_nonce(vehicle.id, nonce)
        return nonce

    def _note_clone(
        self, repos: Repositories, vehicle: VehicleRow, request: Digest, now: Milliseconds
    ) -> None:
        """A client repeats what had no answer, so that the same request is the same sign."""
        since = Milliseconds(now - settings.CLONE_SIGNS_KEPT_MS)
        signs = repos.vehicles.sign_of_clone(vehicle.id, request, now, since)
        if signs >= settings.CLONE_SIGNS_TO_QUARANTINE:
            quarantine(repos, vehicle, CLONED, now)
