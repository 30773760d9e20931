"""Which models vehicles may run: added after vetting, retired by name.

Decides what a model must pass before it is published. What is allowed in a graph is decided by
`workunits.graphs`, which runs behind the Recompute port; how a batch uses a model, by `publishing`.
"""

from __future__ import annotations

import hashlib
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from server import settings
from server.domain import cutting
from server.domain.names import public_blob
from server.domain.records import ModelRow
from server.errors import Conflict, NotFound, Refused
from server.ports import Blobs, Catalogue, Clock, Database, Recompute
from server.services.programs import program_for
from server.services.sampling import RowSample, row_specs
from workunits.kinds import registry
from workunits.kinds.base import KindOptions
from workunits.values import Digest, show
from workunits.wire import codec, limits
from workunits.wire.messages import Calibration, ModelFacts

# It stands in a path of the metadata and in commands.
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}", re.ASCII)
_PIECE_BYTES: Final = limits.MIB
# Running batches looked at before a model is retired.
_MOST_RUNNING: Final = 10_000


@dataclass(frozen=True, slots=True)
class Models:
    """The project's models."""

    database: Database
    blobs: Blobs
    catalogue: Catalogue
    recompute: Recompute
    clock: Clock

    def add(self, file: Path, name: str, calibration: Path | None) -> ModelRow:
        """Vet the model in `file`, calibrate it on the rows of `calibration`, and publish it.

        Raises:
            Conflict: the name is taken.
            GraphRefused, DataRefused, Refused: what does not do, and what to do instead.
        """
        self._check_name(name)
        digest, size = _digest(file)
        facts = self.recompute.vet(file, name=name)
        if calibration is not None:
            facts = self._calibrated(facts, file, digest, calibration)
        self.blobs.put_stream(public_blob(digest), _unchanged(file, digest))
        now = self.clock.now_ms()
        row = ModelRow(name, digest, size, codec.to_json(facts), "active", now)
        with self.database.transaction() as storage:
            storage.models.add(row)
            # Before the commit: a name without a target could be submitted to and never run.
            self.catalogue.add_model(digest, size, facts, now)
        return row

    def retire(self, name: str) -> None:
        """No new batches of this model, and vehicles are told to run it no more.

        Raises:
            NotFound: there is no such model.
            Conflict: it is retired already, or a batch of it runs.
        """
        with self.database.transaction() as storage:
            row = _found(storage.models.get(name), name)
            running = [b for b in storage.batches.running(_MOST_RUNNING) if b.model_name == name]
            if running:
                raise Conflict(
                    f"model {name} is used by batch {show(running[0].id)}, which is running; "
                    "wait for it or cancel it"
                )
            storage.models.retire(name)
            self.catalogue.retire_model(name, row.digest, self.clock.now_ms())

    def list(self) -> list[ModelRow]:
        """All models, retired ones too."""
        with self.database.reading() as storage:
            return storage.models.list()

    def get(self, name: str) -> ModelRow:
        """The model called `name`.

        Raises:
            NotFound
        """
        with self.database.reading() as storage:
            return _found(storage.models.get(name), name)

    def active(self, name: str) -> ModelRow:
        """As `get`, for a new batch.

        Raises:
            NotFound
            Conflict: it is retired.
        """
        with self.database.reading() as storage:
            return require_active(storage.models.get(name), name)

    def _check_name(self, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise Refused(
                f"--name {name!r}: use small letters, digits, '.', '_' and '-', at most 63 of them"
            )
        with self.database.reading() as storage:
            if storage.models.get(name) is not None:
                raise Conflict(f"there is a model called {name} already; choose another --name")

    def _calibrated(self, facts: ModelFacts, model: Path, digest: Digest, data: Path) -> ModelFacts:
        if any(spec.scope == "unit" for spec in facts.inputs):
            raise Refused(
                f"model {facts.name} has inputs that all rows share, so it is calibrated on each "
                "batch; leave --calibration out"
            )
        kind = registry.kind("tensor")
        source = kind.read(data, row_specs(facts), KindOptions())
        cut = cutting.cut(facts, source.rows, cutting.Wishes(), settings.ROWS_PER_UNIT)
        sample = RowSample(cutting.calibration_rows(facts, source.rows))
        sample.take_all(source.blocks(cut.rows_per_unit))
        rules = self.recompute.calibrate(
            model,
            program_for(facts, digest, cut.rows_per_step),
            sample.payload(),
            None,
            sample.rows,
            is_portable_exact=facts.is_portable_exact,
            numbers=sample.numbers,
        )
        return msgspec.structs.replace(
            facts, calibration=Calibration(rows=sample.rows, rules=rules)
        )


def facts_of(row: ModelRow) -> ModelFacts:
    """What vetting found out about a model."""
    return codec.from_json(row.facts, ModelFacts, most=limits.PAYLOAD_BYTES)


def _digest(file: Path) -> tuple[Digest, int]:
    running = hashlib.sha256()
    size = 0
    for piece in _pieces(file):
        running.update(piece)
        size += len(piece)
    return Digest(running.digest()), size


def _unchanged(file: Path, digest: Digest) -> Iterator[bytes]:
    """The file's bytes once more; raises before the last of them is taken for what was vetted."""
    running = hashlib.sha256()
    for piece in _pieces(file):
        running.update(piece)
        yield piece
    if running.digest() != digest:
        raise Refused(f"{file} changed while it was read; try again")


def _pieces(file: Path) -> Iterator[bytes]:
    size = 0
    try:
        _expect_file(file)
        with file.open("rb") as opened:
            while piece := opened.read(_PIECE_BYTES):
                size += len(piece)
                if size > limits.MODEL_BYTES:  # it may have grown
                    raise _too_large(file)
                yield piece
    except OSError as error:
        raise Refused(f"{file} cannot be read: {error.strerror}") from None


def _expect_file(file: Path) -> None:
    """A pipe or a device may make us wait or read for ever, and cannot be read twice."""
    found = file.stat()
    if not stat.S_ISREG(found.st_mode):
        raise Refused(f"{file} is no ordinary file; copy the model into one first")
    if found.st_size > limits.MODEL_BYTES:
        raise _too_large(file)


def _too_large(file: Path) -> Refused:
    return Refused(f"{file}: a model has at most {limits.MODEL_BYTES} bytes")


def require_active(row: ModelRow | None, name: str) -> ModelRow:
    """`row`, if a new batch may use it.

    Raises:
        NotFound
        Conflict: it is retired.
    """
    found = _found(row, name)
    if found.state != "active":
        raise Conflict(f"model {name} is retired; add it again under another name")
    return found


def _found(row: ModelRow | None, name: str) -> ModelRow:
    if row is None:
        raise NotFound(f"there is no model called {name}; see: tesla-at-home-server model list")
    return row
