"""Work requests in, signed answers out, exactly once (PROTOCOL 8).

Takes the requests that arrived together and answers them in one transaction, in which each
vehicle's session moves on, its reports are taken, its leases written and its reply stored: all of it
or nothing. What a request means for its session is `domain.sessions`; reports are `intake`'s,
leases `leasing`'s. Used by one thread.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

from server import settings
from server.domain import holding, sessions
from server.domain.brake import Happened
from server.domain.records import BatchRow, ProjectSecrets, VehicleRow
from server.domain.sessions import Course, Spoken
from server.domain.work import HeldRow, SessionStep, UntoldVerdict
from server.errors import Damaged, NotFound
from server.ports import Blobs, Clock, Database, Randomness, Repositories, Sealer
from server.services.attachments import Answer, Carrier, with_attachments
from server.services.conduct import Conduct, brake, conduct_after
from server.services.intake import Delivery, Intake
from server.services.leasing import Ask, Granted, Leasing
from server.services.manifests import Manifests
from server.services.replies import Replies, Work, upgrade, verdict
from server.services.resyncing import Resyncing
from workunits.errors import ContractError
from workunits.trust import digests, roles
from workunits.values import Digest, KeyId, LeaseId, Milliseconds
from workunits.wire import codec, limits
from workunits.wire.messages import (
    Abort,
    Envelope,
    Reply,
    UnknownVehicle,
    Verdict,
    WorkRequest,
)


@dataclass(frozen=True, slots=True)
class Arrival:
    """One verified work request (`roles.accept_request`) with what rode along."""

    request: WorkRequest
    digest: Digest  # digests.of_request of its payload
    attachments: Mapping[Digest, bytes]  # by digests.of_tensors


@dataclass(frozen=True, slots=True)
class _Turn:
    """A request that is processed, and where its answer goes."""

    place: int
    arrival: Arrival
    vehicle: VehicleRow
    begins: bool  # the first of a session, so that all that is held is compared


class Exchange:
    """The work route's service: `answer`, then `carry`."""

    def __init__(
        self,
        database: Database,
        blobs: Blobs,
        sealer: Sealer,
        clock: Clock,
        randomness: Randomness,
        *,
        no_work_wait_s: int = settings.NO_WORK_WAIT_S,
        spoken: Spoken | None = None,
    ) -> None:
        self._database = database
        self._sealer = sealer
        self._clock = clock
        self._spoken = spoken or Spoken()
        self._manifests = Manifests(blobs)
        self._replies = Replies(self._manifests, no_work_wait_s)
        self._intake = Intake(blobs, self._manifests)
        self._leasing = Leasing(self._manifests, randomness)
        self._resyncing = Resyncing(sealer, randomness)
        self._carrier = Carrier(database, blobs, self._manifests)

    @cached_property
    def _secrets(self) -> ProjectSecrets:
        with self._database.reading() as repos:
            return repos.meta.secrets()

    def answer(self, arrivals: Sequence[Arrival]) -> list[Answer]:
        """One answer for each arrival, in order, all in one transaction: all of them or none.

        Raises:
            Outage: nothing was changed; the same arrivals may be given again, or one by one.
        """
        secrets = self._secrets
        now = self._clock.now_ms()
        answers: dict[int, Answer] = {}
        try:
            with _own_data(), self._database.transaction() as repos:
                for places in _rounds(arrivals):
                    answers.update(self._round(repos, arrivals, places, secrets, now))
        except BaseException:
            self._leasing.rolled_back()
            raise
        self._leasing.committed()
        return [answers[place] for place in range(len(arrivals))]

    def carry(self, answers: Sequence[Answer]) -> list[bytes]:
        """The packed Message of each answer, with its attachments; reads only."""
        with _own_data():
            return self._carrier.carry(answers)

    def _round(
        self,
        repos: Repositories,
        arrivals: Sequence[Arrival],
        places: Sequence[int],
        secrets: ProjectSecrets,
        now: Milliseconds,
    ) -> dict[int, Answer]:
        """Answers to requests of different vehicles."""
        keys = {place: digests.of_key(arrivals[place].request.key) for place in places}
        known = repos.vehicles.by_ids(sorted(keys.values()))
        answers: dict[int, Answer] = {}
        turns = []
        for place in places:
            arrival, vehicle = arrivals[place], known.get(keys[place])
            course = self._course(repos, vehicle, arrival, secrets.epoch, now)
            if vehicle is not None and course in (Course.PROCESS, Course.BEGIN):
                turns.append(
                    _Turn(
                        place, arrival, vehicle, begins=vehicle.seq == 0 or course is Course.BEGIN
                    )
                )
            else:
                answers[place] = self._other(repos, course, vehicle, arrival, secrets, now)
        answers.update(self._process(repos, turns, secrets, now))
        return answers

    def _course(
        self,
        repos: Repositories,
        vehicle: VehicleRow | None,
        arrival: Arrival,
        epoch: int,
        now: Milliseconds,
    ) -> Course:
        request = arrival.request
        is_retired = (
            vehicle is not None
            and sessions.may_be_retired(vehicle, request)
            and repos.vehicles.is_retired(vehicle.id, request.session)
        )
        return sessions.course(
            vehicle,
            request,
            arrival.digest,
            epoch,
            is_retired=is_retired,
            spoken=self._spoken,
            now=now,
        )

    def _other(
        self,
        repos: Repositories,
        course: Course,
        vehicle: VehicleRow | None,
        arrival: Arrival,
        secrets: ProjectSecrets,
        now: Milliseconds,
    ) -> Answer:
        """Every course that does not move the session on."""
        if vehicle is None:
            unknown = UnknownVehicle(in_reply_to=arrival.digest, server_time=now)
            return Answer(self._sealer.seal(unknown, roles.UNKNOWN_VEHICLE))
        if course in (Course.UPGRADE, Course.REPORT):
            if course is Course.REPORT:
                self._take_old(repos, vehicle, arrival, now)
            needed = upgrade(arrival.digest, now, self._spoken)
            return Answer(self._sealer.seal(needed, roles.UPGRADE_REQUIRED))
        if course is Course.REPEAT:
            again = self._repeated(vehicle, arrival)
            if again is not None:
                return again
        return self._resyncing.answer(
            repos, vehicle, arrival.digest, secrets.epoch, now, is_clone=course is Course.CLONE
        )

    def _take_old(
        self, repos: Repositories, vehicle: VehicleRow, arrival: Arrival, now: Milliseconds
    ) -> None:
        """What a client brings that must be updated; it hears the receipts when that is done."""
        reports = arrival.request.reports
        held = repos.replicas.by_leases(sorted({report.lease for report in reports}))
        [taken] = self._intake.take(
            repos, [Delivery(vehicle, reports, arrival.attachments)], held, now
        )
        brake(repos, {vehicle.id: taken.happened}, now)

    def _repeated(self, vehicle: VehicleRow, arrival: Arrival) -> Answer | None:
        """The stored reply, byte for byte; only what rides along is looked up again.

        None: it is not what was signed. The vehicle could believe nothing of it and would ask for ever.
        """
        assert vehicle.last_reply is not None
        try:
            envelope = codec.unpack(vehicle.last_reply, Envelope, most=limits.MESSAGE_BYTES)
            reply = codec.unpack(envelope.payload, Reply, most=limits.PAYLOAD_BYTES)
        except ContractError:
            return None
        # Signing is deterministic, so this is the check of our own signature.
        if self._sealer.seal(reply, roles.REPLY) != envelope:
            return None
        return with_attachments(envelope, reply, arrival.request.wish)

    def _process(
        self,
        repos: Repositories,
        turns: Sequence[_Turn],
        secrets: ProjectSecrets,
        now: Milliseconds,
    ) -> dict[int, Answer]:
        if not turns:
            return {}
        works = self._work(repos, turns, secrets, now)
        answers: dict[int, Answer] = {}
        steps = []
        for turn, work in zip(turns, works, strict=True):
            reply = self._replies.reply(
                turn.arrival.request, turn.arrival.digest, turn.vehicle, work, secrets.epoch, now
            )
            envelope = self._sealer.seal(reply, roles.REPLY)
            answers[turn.place] = with_attachments(envelope, reply, turn.arrival.request.wish)
            steps.append(_session_step(turn, work.conduct, envelope, now))
            if turn.arrival.request.session != turn.vehicle.session:
                repos.vehicles.retire_session(turn.vehicle.id, turn.vehicle.session, now)
        repos.vehicles.advance(steps)
        return answers

    def _work(
        self,
        repos: Repositories,
        turns: Sequence[_Turn],
        secrets: ProjectSecrets,
        now: Milliseconds,
    ) -> list[Work]:
        """Everything the requests ask for, service by service, each for all of them."""
        held = repos.replicas.by_leases(_leases_named(turns))
        verdicts = _tell(repos, turns)
        aborts = [_aborts(turn, held, now) for turn in turns]
        again = self._hold_again(repos, turns, now)
        deliveries = [
            Delivery(turn.vehicle, turn.arrival.request.reports, turn.arrival.attachments)
            for turn in turns
        ]
        taken = self._intake.take(repos, deliveries, held, now)
        conducts = [
            _conduct(turn, held, one.happened, now) for turn, one in zip(turns, taken, strict=True)
        ]
        leases = self._lease(repos, turns, conducts, now)
        return [
            Work(
                receipts=taken[at].receipts,
                leases=(
                    *(self._replies.held(row, batch, secrets, now) for row, batch in again[at]),
                    *(self._replies.granted(one, secrets) for one in leases[at]),
                ),
                aborts=aborts[at],
                verdicts=verdicts[at],
                conduct=conducts[at],
            )
            for at in range(len(turns))
        ]

    def _hold_again(
        self, repos: Repositories, turns: Sequence[_Turn], now: Milliseconds
    ) -> list[list[tuple[HeldRow, BatchRow]]]:
        """For first requests of a session: leases that only the server has are sent again."""
        begun = [turn.vehicle.id for turn in turns if turn.begins]
        if not begun:
            return [[] for _ in turns]
        rows: defaultdict[KeyId, list[HeldRow]] = defaultdict(list)
        for row in repos.replicas.held_by(begun):
            rows[row.vehicle_id].append(row)
        batches = repos.batches.by_ids(
            sorted({row.batch_id for held in rows.values() for row in held})
        )
        found = []
        for turn in turns:
            offered, closed = holding.lost_by_client(
                rows[turn.vehicle.id] if turn.begins else (), turn.arrival.request, batches, now
            )
            repos.replicas.end(closed)
            # Without its manifest or tree a lease says nothing; it stays held until the disk is mended.
            found.append(
                [
                    (row, batches[row.batch_id])
                    for row in offered
                    if self._manifests.is_sound(batches[row.batch_id])
                ]
            )
        return found

    def _lease(
        self,
        repos: Repositories,
        turns: Sequence[_Turn],
        conducts: Sequence[Conduct],
        now: Milliseconds,
    ) -> list[tuple[Granted, ...]]:
        asking = {
            at: Ask(turn.vehicle, turn.arrival.request.wish, conducts[at].quota)
            for at, turn in enumerate(turns)
            if turn.arrival.request.wish is not None
            and turn.vehicle.state == "active"
            and conducts[at].may_have_work(now)
        }
        given = dict(
            zip(asking, self._leasing.lease(repos, list(asking.values()), now), strict=True)
        )
        return [given.get(at, ()) for at in range(len(turns))]


@contextmanager
def _own_data() -> Iterator[None]:
    """Arrivals are verified before they come here: what cannot be read now, this server stored."""
    try:
        yield
    except (NotFound, ContractError) as error:
        raise Damaged(f"stored data: {error}") from error


def _rounds(arrivals: Sequence[Arrival]) -> Iterator[list[int]]:
    """The arrivals in rounds in which each vehicle speaks once, in order."""
    heard: defaultdict[bytes, int] = defaultdict(int)
    rounds: defaultdict[int, list[int]] = defaultdict(list)
    for place, arrival in enumerate(arrivals):
        key = arrival.request.key
        rounds[heard[key]].append(place)
        heard[key] += 1
    yield from rounds.values()


def _leases_named(turns: Sequence[_Turn]) -> list[LeaseId]:
    named = (
        chain((report.lease for report in request.reports), request.holding)
        for request in (turn.arrival.request for turn in turns)
    )
    return sorted(set(chain.from_iterable(named)))


def _aborts(turn: _Turn, held: Mapping[LeaseId, HeldRow], now: Milliseconds) -> tuple[Abort, ...]:
    return holding.unknown_to_server(
        turn.arrival.request, held, turn.vehicle.id, now, settings.LATE_SHARE
    )


def _tell(repos: Repositories, turns: Sequence[_Turn]) -> list[tuple[Verdict, ...]]:
    """The verdicts that each vehicle has not heard, oldest first; they are told now."""
    most = limits.VERDICTS_PER_REPLY
    untold: defaultdict[KeyId, list[UntoldVerdict]] = defaultdict(list)
    vehicles = [turn.vehicle.id for turn in turns]
    for row in repos.replicas.untold(vehicles, most * len(vehicles)):
        if len(untold[row.vehicle_id]) < most:
            untold[row.vehicle_id].append(row)
    repos.replicas.told([row.id for rows in untold.values() for row in rows])
    return [tuple(verdict(row) for row in untold[vehicle]) for vehicle in vehicles]


def _conduct(
    turn: _Turn, held: Mapping[LeaseId, HeldRow], happened: Happened, now: Milliseconds
) -> Conduct:
    return conduct_after(turn.vehicle, turn.arrival.request.reports, held, happened, now)


def _session_step(
    turn: _Turn, conduct: Conduct, envelope: Envelope, now: Milliseconds
) -> SessionStep:
    request = turn.arrival.request
    return SessionStep(
        vehicle_id=turn.vehicle.id,
        old_session=turn.vehicle.session,
        old_seq=turn.vehicle.seq,
        session=request.session,
        seq=request.seq,
        digest=turn.arrival.digest,
        reply=codec.pack(envelope),
        client=request.client,
        seen_ms=now,
        returns=conduct.returns.count,
        returns_since_ms=conduct.returns.since_ms,
        brake=conduct.brake,
    )
