"""What `doctor` looks at among the blobs: whether recent batches still have what they need.

Bounded, so that it ends within a minute on a large project: the youngest batches, their first
outputs, and a limit on the bytes that are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

from server.domain.names import output_blob
from server.domain.records import BatchRow, UnitOutcome
from server.errors import Damaged, ServerError
from server.ports import Blobs, Repositories
from server.services.manifests import Manifests
from server.settings import DATABASE_FILE
from server.storage.blobs import FolderBlobs
from server.storage.database import SqliteDatabase
from workunits.trust import digests
from workunits.values import Digest, show

_BATCHES: Final = 20
_OUTPUTS_PER_BATCH: Final = 1_000
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
        for batch in storage.batches.list(_BATCHES):
            look.at_batch(storage, batch)
    if look.damaged:
        named = "; ".join(look.damaged[:_NAMED])
        more = f"; and {len(look.damaged) - _NAMED} more" if len(look.damaged) > _NAMED else ""
        raise BlobsDamaged(f"{named}{more}: bring blobs/ back from a backup")
    return f"{look.outputs} canonical outputs of the last {_BATCHES} batches are whole"


class _Look:
    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._manifests = Manifests(blobs)
        self._bytes_left = _BYTES
        self.outputs = 0
        self.damaged: list[str] = []

    def at_batch(self, storage: Repositories, batch: BatchRow) -> None:
        named = f"batch {show(batch.id)[:12]}"
        try:
            self._manifests.proof(batch, 0)
        except Damaged as error:
            self.damaged.append(f"{named}: {error}")
        done = (unit for unit in storage.units.canonical(batch.id) if unit.state == "done")
        for block in _blocks(islice(done, _OUTPUTS_PER_BATCH)):
            self._at_outputs(storage, named, block)

    def _at_outputs(self, storage: Repositories, named: str, units: Sequence[UnitOutcome]) -> None:
        small = storage.payloads.read(sorted({unit.output for unit in units if unit.output}))
        for unit in units:
            if unit.output is None or self._bytes_left <= 0:
                continue
            self.outputs += 1
            wrong = self._wrong_with(unit.output, small.get(unit.output))
            if wrong is not None:
                self.damaged.append(f"{named} unit {unit.idx}: its output is {wrong}")

    def _wrong_with(self, output: Digest, small: bytes | None) -> str | None:
        name = output_blob(output)
        size = self._blobs.size(name) if small is None else len(small)
        if size is None:
            return "gone"
        self._bytes_left -= size
        running = digests.streamed_tensors()
        for chunk in self._blobs.chunks(name, 0, size) if small is None else (small,):
            running.update(chunk)
        return None if running.digest() == output else "damaged"


def _blocks(units: Iterator[UnitOutcome]) -> Iterator[list[UnitOutcome]]:
    while block := list(islice(units, _AT_ONCE)):
        yield block
