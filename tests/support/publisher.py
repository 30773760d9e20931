"""A project on disk with its publishing services, and results as if vehicles had given them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from server.adapters.clock import SystemRandomness
from server.adapters.keys import ROLES, KeyFolder, KeySealer
from server.adapters.metadata import ProjectMetadata, role_key
from server.adapters.model_files import TemporaryModelFiles
from server.adapters.recompute import Recompute
from server.domain.records import BatchRow, ProjectSecrets
from server.domain.work import UnitChange
from server.services.assembly import Assembly
from server.services.models import Models
from server.services.publishing import Publishing
from server.storage.database import SqliteDatabase
from server.storage.migrations import migrate
from tests.support.faulty_blobs import FaultyBlobs
from tests.support.models import Sample
from tests.support.still_clock import StillClock
from workunits import arrays
from workunits.trust import digests
from workunits.wire.messages import Project, Terms

TERMS = b"Be kind.\n"


@dataclass(frozen=True)
class Publisher:
    """Real storage, keys and vetting; only the clock stands still."""

    folder: Path
    clock: StillClock
    database: SqliteDatabase
    blobs: FaultyBlobs
    metadata: ProjectMetadata
    keys: KeyFolder

    @property
    def models(self) -> Models:
        return Models(self.database, self.blobs, self.metadata, Recompute(), self.clock)

    @property
    def publishing(self) -> Publishing:
        return Publishing(
            models=self.models,
            database=self.database,
            blobs=self.blobs,
            model_files=TemporaryModelFiles(self.blobs),
            recompute=Recompute(),
            sealer=KeySealer(self.keys.load("batch")),
            clock=self.clock,
            randomness=SystemRandomness(),
        )

    @property
    def assembly(self) -> Assembly:
        return Assembly(self.database, self.blobs)

    def add(self, sample: Sample, name: str, calibration: Path | None = None) -> None:
        self.models.add(sample.write(self.folder / f"{name}.onnx"), name, calibration)

    def data(self, sample: Sample, rows: int, name: str = "data.npz") -> Path:
        """Rows for the model's inputs of scope row, and beside them what all rows share."""
        drawn = sample.draw(rows)
        path = self.folder / name
        scopes = {spec.name: spec.scope for spec in sample.inputs}
        save(path, {n: a for n, a in drawn.items() if scopes[n] == "row"})
        shared = {n: a for n, a in drawn.items() if scopes[n] == "unit"}
        if shared:
            save(self.folder / "shared.npz", shared)
        return path

    def settle(self, batch: BatchRow, outputs: Mapping[int, arrays.Arrays | str | None]) -> None:
        """Per unit index: its canonical output, or why it failed; None leaves it open."""
        with self.database.transaction() as storage:
            for index, output in outputs.items():
                story = storage.units.story(batch.id, index)
                assert story is not None
                if isinstance(output, str):
                    storage.units.change(
                        [UnitChange(story.unit.id, "open", "failed", failure=output)]
                    )
                elif output is not None:
                    raw = arrays.to_payload(output)
                    digest = digests.of_tensors(raw)
                    storage.payloads.add({digest: raw})
                    storage.units.change([UnitChange(story.unit.id, "open", "done", output=digest)])


@contextmanager
def publisher(folder: Path) -> Iterator[Publisher]:
    """A new project in `folder`."""
    clock = StillClock()
    now = clock.now_ms()
    keys = KeyFolder(folder / "keys")
    for role in ROLES:
        keys.make(role)
    metadata = ProjectMetadata(folder / "metadata", keys)
    metadata.create(_project(keys, clock), TERMS, now)
    migrate(folder / "server.sqlite3")
    with SqliteDatabase(folder / "server.sqlite3") as database:
        with database.transaction() as storage:
            storage.meta.found(ProjectSecrets(1, b"t" * 32, b"u" * 32))
        yield Publisher(folder, clock, database, FaultyBlobs(folder / "blobs"), metadata, keys)


def save(path: Path, tensors: Mapping[str, arrays.Array]) -> None:
    """An .npz file of arrays."""
    with path.open("wb") as file:
        np.savez(file, **dict(tensors))  # type: ignore[arg-type]


def _project(keys: KeyFolder, clock: StillClock) -> Project:
    now = clock.now_ms()
    return Project(
        name="Test",
        scheduler_keys=(role_key(keys.load("scheduler"), now),),
        batch_keys=(role_key(keys.load("batch"), now),),
        terms=Terms(digest=digests.plain(TERMS), size=len(TERMS), version="1"),
        protocol_oldest=1,
        protocol_newest=1,
        sign_up="open",
    )
