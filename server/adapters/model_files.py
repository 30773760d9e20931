"""A model blob as a file on the local disk, for as long as a process runs it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from server.domain.names import public_blob
from server.errors import NotFound
from server.ports import Blobs
from workunits.values import Digest, show


class TemporaryModelFiles:
    """Copies out of any kind of blob storage; the copy is gone afterwards."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs

    @contextmanager
    def as_file(self, digest: Digest) -> Iterator[Path]:
        """The model with this digest.

        Raises:
            NotFound: its blob is gone.
        """
        name = public_blob(digest)
        size = self._blobs.size(name)
        if size is None:
            raise NotFound(f"the file of model {show(digest)[:16]} is missing from the blobs")
        with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
            for chunk in self._blobs.chunks(name, 0, size):
                file.write(chunk)
            file.flush()
            yield Path(file.name)
