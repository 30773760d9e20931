"""Owners and vehicles come and go: joining, recovering, leaving, erasing (PROTOCOL 5).

Joining is idempotent by key: the same key asks again and gets the same answer. An enrolment that was
followed by another counts no more, so that nobody can bring an old session back. The owner's code
is made by the client; here only its digest is known. What leaving ends is `departing`'s.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from server import settings
from server.domain import pseudonyms
from server.domain.records import ConsentRow, OwnerRow, VehicleRow
from server.domain.sessions import Spoken
from server.domain.work import DepartureRow
from server.errors import Conflict, Forbidden, Refused
from server.ports import Clock, Database, Randomness, Repositories, Sealer
from server.services.attempts import count_attempt
from server.services.departing import KeyHasLeft, depart, expect_not_left, give_back
from workunits.trust import digests, roles
from workunits.values import ID_BYTES, Digest, KeyId, Milliseconds, OwnerId
from workunits.wire import codec, limits
from workunits.wire.messages import (
    Departed,
    Departure,
    Enrolled,
    Enrolment,
    Envelope,
    NewOwner,
    RecoveringOwner,
)


class UpgradeNeeded(Refused):
    """A client that speaks a version of the protocol which this project does not."""

    code: ClassVar[str] = "upgrade_required"


class TermsChanged(Conflict):
    """Consent was given to another text than the one that holds now."""

    code: ClassVar[str] = "terms_changed"


class TooOften(Conflict):
    """One key enrols again and again, each time with another session."""

    code: ClassVar[str] = "enrolled_too_often"


class Enrolments:
    def __init__(
        self,
        database: Database,
        sealer: Sealer,
        clock: Clock,
        randomness: Randomness,
        *,
        sign_up: str,
        terms: Digest,
        spoken: Spoken | None = None,
    ) -> None:
        self._database = database
        self._sealer = sealer
        self._clock = clock
        self._randomness = randomness
        self._sign_up = sign_up
        self._terms = terms
        self._spoken = spoken or Spoken()

    def enrol(self, request: Enrolment, digest: Digest, network: str | None) -> Envelope:
        """Take in a vehicle; `network` is the prefix that it calls from, None for loopback.

        Raises:
            UpgradeNeeded, TermsChanged, BadName: the request as such.
            TooMany: that network had its enrolments for this hour.
            Forbidden, Conflict: a wrong code or invitation, a name or key that is taken.
        """
        self._check(request)
        now = self._clock.now_ms()
        if network is not None:
            # In a transaction of its own, so that a refused attempt counts too.
            with self._database.transaction() as repos:
                count_attempt(repos, digests.of_key(request.key), network, now)
        with self._database.transaction() as repos:
            vehicle, owner = self._vehicle(repos, request, digest, now)
            epoch = repos.meta.secrets().epoch
        enrolled = Enrolled(
            in_reply_to=digest,
            server_time=now,
            vehicle=vehicle.id,
            owner=owner.id,
            owner_name=owner.name,
            epoch=epoch,
        )
        return self._sealer.seal(enrolled, roles.ENROLLED)

    def leave(self, request: Departure, digest: Digest) -> Envelope:
        """A vehicle leaves; with `erase` its owner and all their vehicles too. Asked again, the
        stored confirmation is given again; one that changes nothing is not stored.

        Raises:
            UnknownKey: no vehicle of this project has or had this key.
        """
        now = self._clock.now_ms()
        with self._database.transaction() as repos:
            known = repos.joining.departure(digest)
            if known is not None:
                return codec.unpack(known.reply, Envelope, most=limits.MESSAGE_BYTES)
            left = depart(repos, request, now, self._randomness)
            departed = Departed(in_reply_to=digest, server_time=now, erased=left.erased)
            sealed = self._sealer.seal(departed, roles.DEPARTED)
            if left.is_news:
                repos.joining.add_departure(DepartureRow(digest, codec.pack(sealed), now))
        return sealed

    def _check(self, request: Enrolment) -> None:
        if not self._spoken.includes(request.protocol):
            raise UpgradeNeeded(
                f"this project speaks protocol {self._spoken.oldest} to {self._spoken.newest}, "
                f"the client {request.protocol}; install a current client"
            )
        if request.consent.terms != self._terms:
            raise TermsChanged("the terms have changed; read them and join again")

    def _vehicle(
        self, repos: Repositories, request: Enrolment, digest: Digest, now: Milliseconds
    ) -> tuple[VehicleRow, OwnerRow]:
        name = pseudonyms.clean(request.vehicle_name, "vehicle")
        key_id = digests.of_key(request.key)
        known = repos.vehicles.by_ids([key_id]).get(key_id)
        if known is not None:
            return self._again(repos, known, request, digest, name, now)
        expect_not_left(repos, key_id)
        owner = self._owner(repos, request, key_id, now)
        vehicle = _new_vehicle(request, key_id, owner.id, name, now)
        repos.vehicles.add(vehicle, _consent(request, digest, key_id, now))
        return vehicle, owner

    def _again(
        self,
        repos: Repositories,
        known: VehicleRow,
        request: Enrolment,
        digest: Digest,
        name: str,
        now: Milliseconds,
    ) -> tuple[VehicleRow, OwnerRow]:
        """A known key: the same answer, and its session begins anew if it brings another one."""
        if known.state == "retired":
            raise KeyHasLeft("this key was retired; make a new key: join in a new directory")
        owner = repos.owners.by_code(digests.of_owner_code(request.owner.code))
        if owner is None or owner.id != known.owner_id:
            raise Forbidden("this key belongs to another owner; check the recovery code")
        was_taken, is_last = repos.vehicles.enrolments(known.id, digest)
        if is_last or request.session == known.session:
            return known, owner
        if was_taken or repos.vehicles.is_retired(known.id, request.session):
            raise Conflict("this session has ended; begin a new one")
        if repos.vehicles.enrolled(known.id) >= settings.ENROLMENTS_PER_VEHICLE:
            raise TooOften("this key has enrolled too often; join again in a new directory")
        fresh = _new_vehicle(request, known.id, owner.id, name, now)
        vehicle = replace(
            known, name=name, client=fresh.client, seen_ms=now, session=fresh.session,
            seq=fresh.seq, last_digest=fresh.last_digest, last_reply=None, nonce=None,
        )  # fmt: skip
        repos.vehicles.retire_session(known.id, known.session, now)
        repos.vehicles.enrol_again(vehicle, _consent(request, digest, known.id, now))
        return vehicle, owner

    def _owner(
        self, repos: Repositories, request: Enrolment, vehicle: KeyId, now: Milliseconds
    ) -> OwnerRow:
        code = digests.of_owner_code(request.owner.code)
        owner = repos.owners.by_code(code)
        if isinstance(request.owner, NewOwner):
            if owner is not None:
                raise Conflict("there is an owner with this code; add the vehicle with --owner")
            return self._new_owner(repos, request, request.owner, vehicle, now)
        if owner is None:
            raise Forbidden("no owner has this recovery code; check it for typing errors")
        if isinstance(request.owner, RecoveringOwner):
            _retire_lost(repos, owner.id, request.owner.lost, now)
        return owner

    def _new_owner(
        self,
        repos: Repositories,
        request: Enrolment,
        wanted: NewOwner,
        vehicle: KeyId,
        now: Milliseconds,
    ) -> OwnerRow:
        if self._sign_up == "invite":
            _use_invite(repos, request.invite, vehicle)
        owner = OwnerRow(
            id=OwnerId(self._randomness.token(ID_BYTES)),
            name=self._name(repos, wanted.name),
            is_public=wanted.is_public,
            code_digest=digests.of_owner_code(wanted.code),
            state="active",
            created_ms=now,
        )
        repos.owners.add(owner)
        return owner

    def _name(self, repos: Repositories, wanted: str | None) -> str:
        if wanted is not None:
            name = pseudonyms.clean(wanted, "owner")
            if repos.owners.has_name(name):
                raise Conflict(f"the name {name!r} is taken; choose another with --name")
            return name
        for _ in range(settings.NAME_TRIES):
            name = pseudonyms.invented(self._randomness.token(4))
            if not repos.owners.has_name(name):
                return name
        raise Conflict("no free pseudonym was found; choose one with --name")


def _new_vehicle(
    request: Enrolment, key_id: KeyId, owner: OwnerId, name: str, now: Milliseconds
) -> VehicleRow:
    return VehicleRow(
        id=key_id,
        owner_id=owner,
        public_key=request.key,
        name=name,
        state="active",
        state_reason=None,
        client=request.client,
        created_ms=now,
        seen_ms=now,
        session=request.session,
        seq=0,
        last_digest=digests.ZERO,
        last_reply=None,
        nonce=None,
    )


def _consent(request: Enrolment, digest: Digest, vehicle: KeyId, now: Milliseconds) -> ConsentRow:
    consent = request.consent
    return ConsentRow(
        vehicle_id=vehicle,
        terms=consent.terms,
        version=consent.version,
        at_ms=consent.at,
        scopes=" ".join(consent.scopes),
        recorded_ms=now,
        request=digest,
    )


def _use_invite(repos: Repositories, invite: str | None, vehicle: KeyId) -> None:
    if invite is None:
        raise Forbidden("this project takes new owners by invitation; join with --invite")
    if not repos.joining.use_invite(digests.of_invite(invite), vehicle):
        raise Forbidden("this invitation is unknown or was used already; ask for another")


def _retire_lost(repos: Repositories, owner: OwnerId, lost: str | None, now: Milliseconds) -> None:
    """The lost computer's vehicle is retired and its leases go back."""
    vehicles = [one for one in repos.vehicles.of_owner(owner) if one.state != "retired"]
    meant = [one for one in vehicles if lost is None or _is_called(one, lost)]
    if len(meant) > 1 or (lost is not None and not meant):
        names = ", ".join(f"{one.name} ({one.id.hex()[:8]})" for one in vehicles)
        raise Conflict(f"say which vehicle was lost, by name or key: {names or 'there is none'}")
    for vehicle in meant:
        give_back(repos, [vehicle.id], now)
        repos.vehicles.set_state(
            vehicle.id, vehicle.state, "retired", "replaced by its owner on a new computer"
        )


def _is_called(vehicle: VehicleRow, called: str) -> bool:
    by_key = len(called) >= 8 and vehicle.id.hex().startswith(called.lower())
    return by_key or pseudonyms.key(vehicle.name) == pseudonyms.key(called)
