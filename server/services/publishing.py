"""A submitter's batch becomes signed units: read, cut, stored, calibrated, signed, published.

Everything that is named by its digest is stored first; one transaction at the end makes the batch
visible with all its units, or nothing of it. Memory holds one block of rows, the calibration rows
and the leaves, whatever the size of the data set. How results are compared and who computes is
decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from server import settings
from server.domain import cutting
from server.domain.cutting import Cut, Wishes
from server.domain.names import public_blob, tree_blob
from server.domain.records import BatchRow, ModelRow, NewUnit
from server.errors import Refused
from server.ports import Blobs, Clock, Database, ModelFiles, Randomness, Recompute, Sealer
from server.services.models import Models, facts_of, require_active
from server.services.payload_store import PayloadStore
from server.services.programs import program_for
from server.services.sampling import RowSample, row_specs, rows_in
from workunits import arrays
from workunits.arrays import Arrays
from workunits.kinds import registry
from workunits.kinds.base import KindOptions, RowSource
from workunits.trust import digests, merkle, roles
from workunits.values import ID_BYTES, BatchId, Digest, Milliseconds
from workunits.wire import codec
from workunits.wire.messages import (
    InputPart,
    Manifest,
    ModelFacts,
    OutputRules,
    Program,
    Unit,
)

# A vehicle whose clock is a little behind must not find a new batch not valid yet.
CLOCK_SLACK_MS: Final = 15 * 60_000
# What was leased at the last moment is still computed and reported (PROTOCOL 8.9).
AFTER_DEADLINE_MS: Final = 2 * settings.LEASE_S * 1000
LONGEST_DEADLINE_S: Final = 365 * settings.DAY_S


@dataclass(frozen=True, slots=True)
class Submission:
    """What a submitter asks for."""

    model: str
    input: Path
    kind: str
    options: KindOptions
    shared: Path | None = None
    wishes: Wishes = field(default_factory=Wishes)
    quorum: int = settings.QUORUM
    deadline_s: int = settings.BATCH_DEADLINE_S


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a submission comes to, before anything is stored."""

    cut: Cut
    quorum: int
    kflop: int  # of one pass over all rows
    is_run: bool  # whether submitting runs the model on some of the rows, to calibrate

    @property
    def replicas(self) -> int:
        """How many times units are computed if all agree."""
        return self.cut.units * self.quorum


@dataclass(frozen=True, slots=True)
class _Checked:
    """A submission that fits its model."""

    submission: Submission
    model: ModelRow
    facts: ModelFacts
    options: KindOptions
    source: RowSource
    cut: Cut


@dataclass(frozen=True, slots=True)
class _Stored:
    """A batch whose payloads are on disk, and which nobody can see yet."""

    batch: BatchId
    leaves: list[bytes]
    sample: RowSample
    shared: bytes | None


@dataclass(frozen=True, slots=True)
class Publishing:
    """Takes submissions; `sealer` signs with the batch key."""

    models: Models
    database: Database
    blobs: Blobs
    model_files: ModelFiles
    recompute: Recompute
    sealer: Sealer
    clock: Clock
    randomness: Randomness

    def estimate(self, submission: Submission) -> Estimate:
        """What the batch would come to; all rows are read once, nothing is run or stored.

        Raises:
            NotFound, Conflict, Refused, DataRefused
        """
        checked = self._check(submission)
        _shared_payload(checked)
        for _ in _whole_blocks(checked):
            pass
        kflop = checked.facts.kflop_per_row * checked.cut.rows
        is_run = checked.facts.calibration is None
        return Estimate(checked.cut, submission.quorum, kflop, is_run)

    def submit(
        self, submission: Submission, on_cut: Callable[[Cut], None] = lambda cut: None
    ) -> BatchRow:
        """Publish the batch and give it as it stands; `on_cut` hears first how it is cut.

        Raises:
            NotFound, Conflict, Refused, DataRefused, GraphRefused: nothing was published.
        """
        checked = self._check(submission)
        on_cut(checked.cut)
        stored = self._store(checked)
        manifest = self._manifest(checked, stored)
        raw = codec.pack(self.sealer.seal(manifest, roles.MANIFEST))
        digest = digests.of_manifest(raw)
        self.blobs.put(public_blob(digest), raw)
        row = _row(checked, manifest, digest)
        with self.database.transaction() as storage:
            require_active(storage.models.get(row.model_name), row.model_name)
            storage.batches.add(row, _units(checked.cut, stored.leaves))
        return row

    def _check(self, submission: Submission) -> _Checked:
        _check_wishes(submission)
        model = self.models.active(submission.model)
        facts = facts_of(model)
        kind = registry.kind(submission.kind)
        options = kind.check(submission.options, facts.outputs)
        source = kind.read(submission.input, row_specs(facts), options)
        cut = cutting.cut(facts, source.rows, submission.wishes, settings.ROWS_PER_UNIT)
        return _Checked(submission, model, facts, options, source, cut)

    def _store(self, checked: _Checked) -> _Stored:
        batch = BatchId(self.randomness.token(ID_BYTES))
        starts = cutting.calibration_rows(checked.facts, checked.cut.rows)
        sample = RowSample(starts, prefers_finite=True)
        shared = _shared_payload(checked)
        payloads = PayloadStore(self.database, self.blobs)
        always = () if shared is None else (payloads.add("unit", shared),)
        leaves = []
        for index, block in enumerate(_whole_blocks(checked)):
            sample.take(block)
            part = payloads.add("row", arrays.to_payload(block))
            leaves.append(codec.pack(_unit(batch, checked.cut, index, (part, *always))))
        payloads.flush()
        return _Stored(batch, leaves, sample, shared)

    def _manifest(self, checked: _Checked, stored: _Stored) -> Manifest:
        levels = merkle.build(merkle.leaf_hash(leaf) for leaf in stored.leaves)
        self.blobs.put(tree_blob(stored.batch), levels)
        program = program_for(checked.facts, checked.model.digest, checked.cut.rows_per_step)
        agreement = self._agreement(checked, stored, program)
        now = self.clock.now_ms()
        deadline_ms = now + checked.submission.deadline_s * 1000
        return Manifest(
            batch=stored.batch,
            model_name=checked.model.name,
            model_bytes=checked.model.size,
            program=program,
            agreement=agreement,
            root=merkle.root_of(levels),
            units=checked.cut.units,
            rows=checked.cut.rows,
            not_before=Milliseconds(now - CLOCK_SLACK_MS),
            not_after=Milliseconds(deadline_ms + AFTER_DEADLINE_MS),
        )

    def _agreement(self, checked: _Checked, stored: _Stored, program: Program) -> OutputRules:
        """DECISIONS B.2: the model's own calibration, or one on rows of this batch."""
        if checked.facts.calibration is not None:
            return checked.facts.calibration.rules
        with self.model_files.as_file(checked.model.digest) as model:
            return self.recompute.calibrate(
                model,
                program,
                stored.sample.payload(),
                stored.shared,
                stored.sample.rows,
                is_portable_exact=checked.facts.is_portable_exact,
                numbers=stored.sample.numbers,
                leaves_out=True,
            )


def _check_wishes(submission: Submission) -> None:
    if not 1 <= submission.quorum <= settings.REPLICAS_PER_UNIT:
        raise Refused(
            f"--quorum {submission.quorum}: must be between 1 and {settings.REPLICAS_PER_UNIT}"
        )
    if not 1 <= submission.deadline_s <= LONGEST_DEADLINE_S:
        raise Refused(f"--deadline: must be between 1s and {LONGEST_DEADLINE_S // settings.DAY_S}d")


def _shared_payload(checked: _Checked) -> bytes | None:
    """What all rows share, as one payload, or None where the model has nothing of the kind."""
    specs = tuple(spec for spec in checked.facts.inputs if spec.scope == "unit")
    file = checked.submission.shared
    if not specs:
        if file is not None:
            raise Refused(f"--shared: model {checked.model.name} has no input that all rows share")
        return None
    if file is None:
        names = ", ".join(spec.name for spec in specs)
        raise Refused(f"model {checked.model.name} needs --shared FILE.npz with: {names}")
    return arrays.to_payload(registry.read_shared(file, specs))


def _whole_blocks(checked: _Checked) -> Iterator[Arrays]:
    """The rows of each unit; a data set that changes while it is read is refused."""
    cut, read = checked.cut, 0
    for block in checked.source.blocks(cut.rows_per_unit):
        if rows_in(block) != cut.rows_of(read):
            break
        yield block
        read += 1
    if read != cut.units:
        raise Refused(f"{checked.submission.input} changed while it was read; try again")


def _unit(batch: BatchId, cut: Cut, index: int, inputs: tuple[InputPart, ...]) -> Unit:
    return Unit(
        batch=batch,
        index=index,
        first_row=cut.first_row(index),
        rows=cut.rows_of(index),
        inputs=inputs,
    )


def _units(cut: Cut, leaves: list[bytes]) -> Iterator[NewUnit]:
    for index, leaf in enumerate(leaves):
        yield NewUnit(index, cut.first_row(index), cut.rows_of(index), leaf)


def _row(checked: _Checked, manifest: Manifest, digest: Digest) -> BatchRow:
    created_ms = Milliseconds(manifest.not_before + CLOCK_SLACK_MS)
    return BatchRow(
        id=manifest.batch,
        model_name=manifest.model_name,
        kind=checked.submission.kind,
        options=codec.to_json(checked.options),
        state="running",
        quorum=checked.submission.quorum,
        assurance="replicated",
        units=manifest.units,
        rows=manifest.rows,
        kflop_per_row=manifest.program.kflop_per_row,
        lease_s=settings.LEASE_S,
        created_ms=created_ms,
        deadline_ms=Milliseconds(manifest.not_after - AFTER_DEADLINE_MS),
        manifest=digest,
        tree=tree_blob(manifest.batch),
    )
