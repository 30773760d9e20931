"""What the driver does for a unit before it is computed: prove its lease, and gather its job.

Decides nothing beyond what was signed; runs in the deciding thread and asks only disk and memory.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Container
from dataclasses import dataclass

from tesla_at_home.agent import acceptance
from tesla_at_home.agent.books import HeldUnit
from tesla_at_home.agent.events import Event, ManifestMissing, Need, OfferRefused, Proved, Room
from tesla_at_home.errors import Untrusted
from tesla_at_home.ports import InputFile, Job, Metadata, ProjectView, Shelf
from tesla_at_home.settings import Settings
from workunits.errors import ContractError
from workunits.trust import digests
from workunits.values import Digest, Milliseconds
from workunits.wire import limits


@dataclass(frozen=True, slots=True)
class Preparing:
    """Over the files that are here and the models that TUF names."""

    shelf: Shelf
    metadata: Metadata

    def room(self) -> Room:
        """What the disk has."""
        shelf = self.shelf
        return Room(shelf.free_bytes(), shelf.held("model"), shelf.held("manifest"))

    def evict_manifests(self, keep: Container[Digest]) -> bool:
        """No more are kept than a wish can name, but for those in use; whether any went."""
        return self.shelf.evict_manifests(keep, limits.CACHED)

    def most_bytes(self, settings: Settings) -> int:
        """What models and units may take of the disk."""
        return int(self.shelf.disk_bytes() * settings.limits.disk / 100)

    @staticmethod
    def memory_bytes(settings: Settings) -> int:
        """What the child may take of the memory."""
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return int(total * settings.limits.memory / 100)

    def judge(
        self, unit: HeldUnit, view: ProjectView, now: Milliseconds, settings: Settings
    ) -> Event:
        """Whether the lease checks out, and which files are missing."""
        manifest = acceptance.manifest_of(unit.offer)
        raw = self._manifest(manifest)
        if raw is None:
            return ManifestMissing(unit.lease, manifest)
        try:
            facts, needs = acceptance.prove(
                unit.offer, raw, view.project, now, self.metadata.model_size
            )
        except (ContractError, Untrusted) as error:
            return OfferRefused(unit.lease, error.code, str(error))
        missing = tuple(need for need in needs if not self.shelf.has(need))
        return Proved(unit.lease, facts, missing, self.most_bytes(settings))

    def _manifest(self, need: Need) -> bytes | None:
        """The manifest as it was signed; one that the disk damaged is forgotten."""
        try:
            raw = self.shelf.read(need)
        except OSError:
            return None
        if digests.of_manifest(raw) == need.digest:
            return raw
        self.shelf.recheck(need)
        return None

    def job(self, unit: HeldUnit, settings: Settings) -> Job:
        """All that the child needs for a unit whose files are here.

        Raises:
            OSError: one of them is not, or cannot be read.
        """
        shelf, facts = self.shelf, unit.facts
        assert facts is not None
        raw = self._manifest(acceptance.manifest_of(unit.offer))
        if raw is None or not all(shelf.has(need) for need in acceptance.files_of(facts)):
            raise FileNotFoundError(errno.ENOENT, "it is not there any more")
        manifest = acceptance.open_manifest(raw)
        model, *inputs = acceptance.files_of(facts)
        return Job(
            lease=unit.lease,
            model=str(shelf.use(model)),
            model_name=facts.model_name,
            program=manifest.program,
            rows=facts.rows,
            inputs=tuple(
                InputFile(str(shelf.path(need)), part.scope, part.digest)
                for need, part in zip(inputs, facts.inputs, strict=True)
            ),
            spool=str(shelf.spool(unit.lease)),
            output=str(shelf.output(unit.lease)),
            first_step=shelf.begin(unit.lease),
            threads=max(1, int((os.cpu_count() or 1) * settings.limits.cores / 100)),
            duty=settings.limits.duty,
            checkpoint_s=settings.work.checkpoint_s,
            memory_bytes=self.memory_bytes(settings),
        )
