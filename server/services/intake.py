"""Reports in, receipts out: which results are kept, refused or not needed (PROTOCOL 8.6).

Whether a report is still wanted is `domain.reports`; whether its payload is what the program gives
is judged here without numpy; whether the numbers are right is `validation`, later. A faulty item
costs its vehicle that item, never the request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from server import settings
from server.domain import lifecycle, names
from server.domain.brake import Happened
from server.domain.quorum import is_due
from server.domain.records import BatchRow, UploadRow, VehicleRow
from server.domain.reports import Step, not_needed, step_or_receipt
from server.domain.work import HeldRow, ReplicaEnd, ReportTaken
from server.errors import NotFound
from server.ports import Blobs, Repositories
from server.services.manifests import Manifests
from server.services.settling import Ended, see_to_units
from workunits.errors import ContractError
from workunits.values import BatchId, Digest, LeaseId, Milliseconds, OwnerId
from workunits.wire import limits, tensors
from workunits.wire.messages import Receipt, Report, Runtime


@dataclass(frozen=True, slots=True)
class Delivery:
    """The reports of one verified request."""

    vehicle: VehicleRow
    reports: Sequence[Report]
    attachments: Mapping[Digest, bytes]


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of one delivery."""

    receipts: tuple[Receipt, ...]
    happened: Happened


@dataclass(slots=True)
class _Plan:
    """What one gathering's reports come to, before anything is written."""

    taken: list[ReportTaken] = field(default_factory=list)
    ended: list[ReplicaEnd] = field(default_factory=list)
    after: dict[int, Ended] = field(default_factory=dict)
    errors: int = 0  # of the vehicles
    payloads: dict[Digest, bytes] = field(default_factory=dict)
    uploads: list[LeaseId] = field(default_factory=list)
    units: dict[int, HeldRow] = field(default_factory=dict)
    claimed: set[tuple[int, OwnerId]] = field(default_factory=set)
    receipts: dict[LeaseId, Receipt] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Known:
    """What the database says about the leases that are reported on."""

    held: Mapping[LeaseId, HeldRow]
    batches: Mapping[BatchId, BatchRow]
    uploads: Mapping[LeaseId, UploadRow]
    voices: Mapping[int, set[OwnerId]]


class Intake:
    def __init__(self, blobs: Blobs, manifests: Manifests) -> None:
        self._blobs = blobs
        self._manifests = manifests

    def take(
        self,
        repos: Repositories,
        deliveries: Sequence[Delivery],
        held: Mapping[LeaseId, HeldRow],
        now: Milliseconds,
    ) -> list[Taken]:
        """What became of each delivery, in order; everything is written."""
        known = _read(repos, deliveries, held)
        plan = _Plan()
        taken = [self._deliver(plan, known, delivery, now) for delivery in deliveries]
        _write(repos, plan, known, now)
        return taken

    def _deliver(self, plan: _Plan, known: _Known, delivery: Delivery, now: Milliseconds) -> Taken:
        errors, taken = plan.errors, len(plan.taken)
        receipts = tuple(
            self._receipt(plan, known, delivery, report, now) for report in delivery.reports
        )
        return Taken(receipts, Happened(plan.errors - errors, results=len(plan.taken) - taken))

    def _receipt(
        self, plan: _Plan, known: _Known, delivery: Delivery, report: Report, now: Milliseconds
    ) -> Receipt:
        if report.lease in plan.receipts and _is_own(known, delivery, report):
            return plan.receipts[report.lease]
        held = known.held.get(report.lease)
        step = step_or_receipt(report, held, delivery.vehicle.id, now, settings.LATE_SHARE)
        if isinstance(step, Receipt) or held is None:
            assert isinstance(step, Receipt)
            return step
        receipt = self._carry_out(step, plan, known, delivery, report, held, now)
        plan.receipts[report.lease] = receipt
        return receipt

    def _carry_out(
        self,
        step: Step,
        plan: _Plan,
        known: _Known,
        delivery: Delivery,
        report: Report,
        held: HeldRow,
        now: Milliseconds,
    ) -> Receipt:
        if step is Step.FAIL:
            _end(plan, delivery, held, "fail", report.code or "failed", report.detail, now)
            return Receipt(lease=report.lease, outcome="taken")
        if step is Step.RETURN:
            _end(plan, delivery, held, "return", report.code, report.detail, now)
            return Receipt(lease=report.lease, outcome="taken")
        owner = delivery.vehicle.owner_id
        if held.state == "lost" and _has_voice(plan, known, held.unit_id, owner):
            return not_needed(report, "second_voice")
        try:
            found = self._payload(known, delivery, report)
            if found is None:
                return Receipt(lease=report.lease, outcome="again", code="payload_missing")
            self._check(known, report, held, found)
        except ContractError as error:
            return _refuse(plan, delivery, report, held, error, now)
        _take(plan, delivery, report, held, now)
        return Receipt(lease=report.lease, outcome="taken")

    def _payload(
        self, known: _Known, delivery: Delivery, report: Report
    ) -> bytes | memoryview | None:
        """The output's bytes, which rode along or were uploaded whole; None: not here."""
        if report.output is None:
            raise ContractError("a result without an output; report it as failed instead")
        raw = delivery.attachments.get(report.output)
        if raw is not None:
            return raw
        upload = known.uploads.get(report.lease)
        if upload is None or not upload.is_complete or upload.digest != report.output:
            return None
        try:
            return self._blobs.view(names.output_blob(report.output))
        except NotFound:
            return None

    def _check(self, known: _Known, report: Report, held: HeldRow, raw: bytes | memoryview) -> None:
        """Raise a `ContractError` unless the payload holds what the unit's program gives."""
        if len(raw) != report.output_size:
            raise ContractError(
                f"the output has {len(raw)} bytes, the report says {report.output_size}"
            )
        manifest = self._manifests.find(known.batches[held.batch_id].manifest)
        if manifest is None:
            # Damaged here, which is not the vehicle's fault: validation looks once it is mended.
            return
        decoded = tensors.decode(raw, most=limits.TENSOR_PAYLOAD_BYTES)
        tensors.check(decoded, manifest.program.outputs, held.rows)


def _read(
    repos: Repositories, deliveries: Sequence[Delivery], held: Mapping[LeaseId, HeldRow]
) -> _Known:
    reported = [
        (delivery, report, held[report.lease])
        for delivery in deliveries
        for report in delivery.reports
        if report.lease in held
    ]
    absent = [
        report.lease
        for delivery, report, _ in reported
        if report.outcome == "done" and report.output not in delivery.attachments
    ]
    late = {row.unit_id for _, _, row in reported if row.state == "lost"}
    return _Known(
        held=held,
        batches=repos.batches.by_ids(sorted({row.batch_id for _, _, row in reported})),
        uploads=repos.uploads.by_leases(absent),
        voices=repos.replicas.voices(sorted(late)),
    )


def _write(repos: Repositories, plan: _Plan, known: _Known, now: Milliseconds) -> None:
    repos.payloads.add(plan.payloads)
    repos.replicas.take(plan.taken)
    repos.replicas.end(plan.ended)
    if plan.uploads:
        repos.uploads.delete(plan.uploads)
    waiting = repos.replicas.results_counted(sorted(plan.units))
    due = [
        unit
        for unit, held in sorted(plan.units.items())
        if is_due(held.unit_state, waiting[unit], known.batches[held.batch_id].quorum)
    ]
    repos.units.ask_check(due)
    see_to_units(repos, plan.after, now)


def _take(
    plan: _Plan, delivery: Delivery, report: Report, held: HeldRow, now: Milliseconds
) -> None:
    assert report.output is not None
    raw = delivery.attachments.get(report.output)
    if raw is None:
        plan.uploads.append(report.lease)
    else:
        plan.payloads[report.output] = raw
    new = lifecycle.after(lifecycle.REPLICA, held.state, "report")
    if delivery.vehicle.state == "quarantined" and held.unit_state == "open":
        # It has no voice: its unit needs another, and its verdict comes with theirs.
        new = lifecycle.after(lifecycle.REPLICA, new, "set_aside")
        plan.after.setdefault(held.unit_id, Ended())
    else:
        plan.units[held.unit_id] = held
    plan.claimed.add((held.unit_id, delivery.vehicle.owner_id))
    plan.taken.append(
        ReportTaken(
            id=held.id,
            old=held.state,
            owner_id=delivery.vehicle.owner_id,
            output=report.output,
            output_size=report.output_size,
            runtime=_named(report.runtime),
            compute_ms=report.compute_ms,
            ended_ms=now,
            new=new,
        )
    )


def _refuse(
    plan: _Plan,
    delivery: Delivery,
    report: Report,
    held: HeldRow,
    error: ContractError,
    now: Milliseconds,
) -> Receipt:
    detail = str(error)[: limits.TEXT_CHARS]
    if held.state == "leased":
        _end(plan, delivery, held, "fail", error.code, detail, now)
    return Receipt(lease=report.lease, outcome="refused", code=error.code, detail=detail)


def _end(
    plan: _Plan,
    delivery: Delivery,
    held: HeldRow,
    event: str,
    code: str | None,
    detail: str | None,
    now: Milliseconds,
) -> None:
    failed = event == "fail"
    # In quarantine a failure says something of the vehicle, nothing of the unit.
    counts = failed and delivery.vehicle.state != "quarantined"
    plan.errors += failed
    plan.ended.append(
        ReplicaEnd(
            id=held.id,
            old=held.state,
            new=lifecycle.after(lifecycle.REPLICA, held.state, event),
            code=code,
            detail=detail,
            ended_ms=now,
            frees_owner=not failed,
            is_repeat=failed and not counts,
        )
    )
    before = plan.after.get(held.unit_id, Ended())
    plan.after[held.unit_id] = Ended(
        errors=before.errors + counts, returned=before.returned + (not counts)
    )


def _has_voice(plan: _Plan, known: _Known, unit: int, owner: OwnerId) -> bool:
    return (unit, owner) in plan.claimed or owner in known.voices.get(unit, ())


def _is_own(known: _Known, delivery: Delivery, report: Report) -> bool:
    held = known.held.get(report.lease)
    return held is not None and held.vehicle_id == delivery.vehicle.id


def _named(runtime: Runtime | None) -> str | None:
    if runtime is None:
        return None
    return f"{runtime.onnxruntime} {runtime.provider} {runtime.machine}"
