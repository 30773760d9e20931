"""What `doctor` looks at among the blobs: whether models and recent batches have what they need.

Bounded, so that it ends within a minute on a large project: the youngest batches, their first
outputs and the next units to be leased, and a limit on the bytes that are read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

from server.domain.names import output_blob, public_blob
from server.domain.records import BatchRow, ModelRow, UnitOutcome
from server.errors import Damaged, ServerError
from server.ports import Blobs, Repositories
from server.services.manifests import Manifests
from server.settings import DATABASE_FILE
from server.storage.blobs import FolderBlobs
from server.storage.database import SqliteDatabase
from workunits.errors import ContractError
from workunits.trust import digests, merkle
from workunits.values import Digest, show
from workunits.wire import codec, limits
from workunits.wire.messages import Unit

_BATCHES: Final = 20
_OUTPUTS_PER_BATCH: Final = 1_000
_READY_PER_BATCH: Final = 1_000
# A minute or less from an ordinary disk.
_BYTES: Final = 4 * 2**30
_AT_ONCE: Final = 256
# Units and batches are named as other commands name them; more are only counted.
_NAMED: Final = 5


class BlobsDamaged(ServerError):
    """Some are gone or are not what was written; the message names them and says what to do."""

    code = "blobs_damaged"


def look_at_blobs(folder: Path) -> str:
    """How much was looked at.

    Raises:
        BlobsDamaged: which blobs are not well.
    """
    look = _Look(FolderBlobs(folder / "blobs"))
    with SqliteDatabase(folder / DATABASE_FILE) as database, database.reading() as storage:
        for model in storage.models.list():
            look.at_model(model)
        for batch in storage.batches.list(_BATCHES):
            look.at_batch(storage, batch)
    if look.damaged:
        named = "; ".join(look.damaged[:_NAMED])
        more = f"; and {len(look.damaged) - _NAMED} more" if len(look.damaged) > _NAMED else ""
        raise BlobsDamaged(f"{named}{more}: bring blobs/ back from a backup")
    return f"models, inputs and {look.outputs} canonical outputs of the last {_BATCHES} batches are whole"


class _Look:
    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._manifests = Manifests(blobs)
        self._bytes_left = _BYTES
        self.outputs = 0
        self.damaged: list[str] = []

    def at_model(self, model: ModelRow) -> None:
        """Retired ones too: a batch of theirs may still run."""
        wrong = self._wrong_with(hashlib.sha256(), model.digest, public_blob(model.digest))
        if wrong is not None:
            self.damaged.append(f"model {model.name}: its file is {wrong}")

    def at_batch(self, storage: Repositories, batch: BatchRow) -> None:
        named = f"batch {show(batch.id)[:12]}"
        try:
            self._manifests.proof(batch, 0)
        except Damaged as error:
            self.damaged.append(f"{named}: {error}")
        else:
            self._at_ready(storage, named, batch)
        done = (unit for unit in storage.units.canonical(batch.id) if unit.state == "done")
        for block in _blocks(islice(done, _OUTPUTS_PER_BATCH)):
            self._at_outputs(storage, named, block)

    def _at_ready(self, storage: Repositories, named: str, batch: BatchRow) -> None:
        """What goes out next: the units are the ones that were signed, and their inputs are here."""
        root = self._manifests.manifest(batch.manifest).root
        units = {row.idx: row for row in storage.replicas.ready(batch.id, 0, _READY_PER_BATCH)}
        for index, row in units.items():
            try:
                proof = self._manifests.proof(batch, index)
                merkle.verify(row.body, index, batch.units, proof, root)
                unit = codec.unpack(row.body, Unit, most=limits.PAYLOAD_BYTES)
            except ContractError:
                self.damaged.append(f"{named} unit {index}: it is not what was signed")
                continue
            self._at_inputs(storage, f"{named} unit {index}", unit)

    def _at_inputs(self, storage: Repositories, named: str, unit: Unit) -> None:
        small = storage.payloads.read([part.digest for part in unit.inputs])
        for part in unit.inputs:
            raw, name = small.get(part.digest), public_blob(part.digest)
            wrong = self._wrong_with(digests.streamed_tensors(), part.digest, name, raw)
            if wrong is not None:
                self.damaged.append(f"{named}: its input is {wrong}")

    def _at_outputs(self, storage: Repositories, named: str, units: Sequence[UnitOutcome]) -> None:
        small = storage.payloads.read(sorted({unit.output for unit in units if unit.output}))
        for unit in units:
            if unit.output is None:
                continue
            self.outputs += 1
            name = output_blob(unit.output)
            running = digests.streamed_tensors()
            wrong = self._wrong_with(running, unit.output, name, small.get(unit.output))
            if wrong is not None:
                self.damaged.append(f"{named} unit {unit.idx}: its output is {wrong}")

    def _wrong_with(
        self, running: hashlib._Hash, wanted: Digest, name: str, small: bytes | None = None
    ) -> str | None:
        """None: it is well, or too much has been read already."""
        size = self._blobs.size(name) if small is None else len(small)
        if size is None:
            return "gone"
        self._bytes_left -= size
        if self._bytes_left < 0:
            return None
        for chunk in self._blobs.chunks(name, 0, size) if small is None else (small,):
            running.update(chunk)
        return None if running.digest() == wanted else "damaged"


def _blocks(units: Iterator[UnitOutcome]) -> Iterator[list[UnitOutcome]]:
    while block := list(islice(units, _AT_ONCE)):
        yield block
