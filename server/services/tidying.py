"""Files that nothing names: what a kill or a power cut left of writers that were in the middle.

Deleting a row comes before deleting its file, and a blob has a passing name until it is whole, so a
cut leaves a file too many and never one too few. Which rows and blobs are past their end is
`server.services.sweeping`.
"""

from __future__ import annotations

from server import settings
from server.ports import Blobs, Database, UploadFiles
from workunits.values import Milliseconds


class Tidying:
    def __init__(self, database: Database, uploads: UploadFiles, blobs: Blobs) -> None:
        self._database = database
        self._uploads = uploads
        self._blobs = blobs

    def tidy(self, now: Milliseconds) -> int:
        """How many files were removed."""
        gone = self._blobs.drop_passing(Milliseconds(now - settings.PASSING_KEPT_MS))
        # Looked at before the rows: an upload is written down before its file is made.
        parts = self._uploads.kept()
        with self._database.reading() as repos:
            known = repos.uploads.by_leases(parts)
        strays = [lease for lease in parts if lease not in known]
        for lease in strays:
            self._uploads.discard(lease)
        return gone + len(strays)
