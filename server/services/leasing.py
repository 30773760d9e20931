"""Who gets which ready replica, for a whole gathering of requests at once.

The oldest running batch first; within it each owner goes forward through the ready replicas and
takes those of units in which nobody of theirs has a voice. Picked in memory, checked against the
database before it is written; the guard UNIQUE(unit, owner) stands behind it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from server import settings
from server.domain.assignment import duration_s, leases_wanted, pick
from server.domain.records import BatchRow, VehicleRow
from server.domain.work import LeaseGrant, ReadyRow
from server.ports import Randomness, Repositories
from server.services.manifests import Manifests
from server.services.ready import ReadyReplicas
from workunits.values import ID_BYTES, BatchId, LeaseId, Milliseconds, OwnerId
from workunits.wire.messages import Wish


@dataclass(frozen=True, slots=True)
class Ask:
    """One vehicle that may be given work, and what it wishes."""

    vehicle: VehicleRow
    wish: Wish
    most_held: int = settings.HELD_LEASES


@dataclass(frozen=True, slots=True)
class Granted:
    """A lease as written."""

    grant: LeaseGrant
    replica: ReadyRow
    batch: BatchRow


@dataclass(slots=True)
class _Picked:
    """What one gathering has picked so far; nothing of it is written or remembered yet."""

    places: dict[tuple[OwnerId, BatchId], int] = field(default_factory=dict)
    granted: list[list[Granted]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Checked:
    """Of what was picked: what may be leased, and what is ready but not for who picked it."""

    good: set[int] = field(default_factory=set)
    refused: list[ReadyRow] = field(default_factory=list)


class Leasing:
    def __init__(
        self,
        manifests: Manifests,
        randomness: Randomness,
        ready: ReadyReplicas | None = None,
    ) -> None:
        self._manifests = manifests
        self._randomness = randomness
        self._ready = ReadyReplicas() if ready is None else ready
        self._picked: list[_Picked] = []

    def lease(
        self, repos: Repositories, asks: Sequence[Ask], now: Milliseconds
    ) -> list[tuple[Granted, ...]]:
        """The leases of each ask, in order; written, but remembered only by `committed`."""
        if not asks:
            return []
        wanted = self._wanted(repos, asks)
        batches = repos.batches.running(settings.BATCHES_EXAMINED) if any(wanted) else []
        picked = _Picked(granted=[[] for _ in asks])
        self._picked.append(picked)
        self._pick_all(repos, asks, wanted, batches, picked, now)
        repos.replicas.lease([one.grant for granted in picked.granted for one in granted])
        return [tuple(granted) for granted in picked.granted]

    def committed(self) -> None:
        """The transaction is on disk: what was picked stays picked."""
        for picked in self._picked:
            self._ready.committed(picked.places)
        self._picked.clear()

    def rolled_back(self) -> None:
        """Nothing was leased; what is in memory may be wrong."""
        self._picked.clear()
        self._ready.forget()

    def _wanted(self, repos: Repositories, asks: Sequence[Ask]) -> list[int]:
        held = repos.replicas.held_counts([ask.vehicle.id for ask in asks])
        return [leases_wanted(ask.wish, held.get(ask.vehicle.id, 0), ask.most_held) for ask in asks]

    def _pick_all(
        self,
        repos: Repositories,
        asks: Sequence[Ask],
        wanted: Sequence[int],
        batches: Sequence[BatchRow],
        picked: _Picked,
        now: Milliseconds,
    ) -> None:
        if not batches:
            return
        self._ready.keep_only(batch.id for batch in batches)
        newest = repos.replicas.newest()
        candidates: list[list[tuple[ReadyRow, BatchRow]]] = []
        for ask, most in zip(asks, wanted, strict=True):
            candidates.append(
                list(self._pick(repos, ask, most, batches, picked, newest, now)) if most else []
            )
        checked = _checked(repos, asks, candidates)
        for place, ask in enumerate(asks):
            picked.granted[place] = [
                self._grant(ask, replica, batch, now)
                for replica, batch in candidates[place]
                if replica.id in checked.good
            ]
        for replica in checked.refused:
            self._offer_again(replica, picked)

    def _offer_again(self, replica: ReadyRow, picked: _Picked) -> None:
        """Picked for an owner who may not have it: others who came past it meanwhile go back."""
        self._ready.gone(replica.batch_id).discard(replica.id)
        for key, place in picked.places.items():
            if key[1] == replica.batch_id:
                picked.places[key] = min(place, replica.id - 1)

    def _pick(
        self,
        repos: Repositories,
        ask: Ask,
        most: int,
        batches: Sequence[BatchRow],
        picked: _Picked,
        newest: int,
        now: Milliseconds,
    ) -> Iterable[tuple[ReadyRow, BatchRow]]:
        for batch in batches:
            if most == 0:
                return
            if not self._suits(ask.wish, batch, now):
                continue
            for replica in self._pick_from(repos, ask, most, batch, picked, newest):
                most -= 1
                yield replica, batch

    def _pick_from(
        self,
        repos: Repositories,
        ask: Ask,
        most: int,
        batch: BatchRow,
        picked: _Picked,
        newest: int,
    ) -> list[ReadyRow]:
        """Up to `most` replicas of one batch; examines a bounded number of rows."""
        owner = ask.vehicle.owner_id
        key = (owner, batch.id)
        taken: list[ReadyRow] = []
        for _ in range(2):
            after = picked.places.get(key, self._ready.place(owner, batch.id))
            offer = self._ready.offer(repos, batch.id, after, newest)
            if not offer.rows:
                break
            gone = self._ready.gone(batch.id)
            found = pick(offer.rows, owner, offer.voices, gone, most - len(taken))
            picked.places[key] = found.seen_to
            gone.update(row.id for row in found.taken)
            for row in found.taken:
                offer.voices[row.unit_id].add(owner)
            taken += found.taken
            if len(taken) == most:
                break
        return taken

    def _suits(self, wish: Wish, batch: BatchRow, now: Milliseconds) -> bool:
        """Whether there is time for a lease and room for the model, and the batch is whole.

        A batch with a damaged manifest or tree is passed over, so that the others go on.
        """
        if duration_s(batch.lease_s, batch.deadline_ms, now) == 0:
            return False
        if not self._manifests.is_sound(batch):
            return False
        manifest = self._manifests.manifest(batch.manifest)
        return manifest.program.model in wish.models or manifest.model_bytes <= wish.free_disk

    def _grant(self, ask: Ask, replica: ReadyRow, batch: BatchRow, now: Milliseconds) -> Granted:
        length = duration_s(batch.lease_s, batch.deadline_ms, now)
        grant = LeaseGrant(
            id=replica.id,
            owner_id=ask.vehicle.owner_id,
            vehicle_id=ask.vehicle.id,
            lease_id=LeaseId(self._randomness.token(ID_BYTES)),
            leased_ms=now,
            deadline_ms=Milliseconds(now + length * 1000),
        )
        return Granted(grant, replica, batch)


def _checked(
    repos: Repositories,
    asks: Sequence[Ask],
    candidates: Sequence[Sequence[tuple[ReadyRow, BatchRow]]],
) -> _Checked:
    """What the database says to what was picked from memory."""
    rows = [replica for picked in candidates for replica, _ in picked]
    ready = repos.replicas.still_ready([row.id for row in rows])
    voices = repos.replicas.voices(sorted({row.unit_id for row in rows}))
    checked = _Checked()
    for ask, picked in zip(asks, candidates, strict=True):
        owner = ask.vehicle.owner_id
        for replica in (replica for replica, _ in picked if replica.id in ready):
            heard = voices.setdefault(replica.unit_id, set())
            if owner in heard:
                checked.refused.append(replica)
            else:
                heard.add(owner)
                checked.good.add(replica.id)
    return checked
