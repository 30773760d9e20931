"""Several arrays in one zip archive, stored or deflated, as `np.savez` and its sibling write it."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final, cast

from workunits.arrays import Array, Arrays
from workunits.errors import DataRefused
from workunits.kinds.base import RowSource, Status
from workunits.kinds.formats import npy, refusals, stored
from workunits.kinds.formats.table import STATUS_COLUMN, Column, TableWriter, raw
from workunits.wire import limits
from workunits.wire.messages import TensorSpec

FORM: Final = ".npz"
_SUFFIX: Final = ".npy"
_LOCAL_HEADER_BYTES: Final = 30
_COPY_BYTES: Final = 1 << 20
# Many more members than a model can have inputs are not worth a look.
_MEMBERS: Final = 16 * limits.TENSORS
# What numpy writes. The standard library unpacks the other methods without a bound: 400 bytes of
# bzip2 become 256 MiB in memory.
_METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def read(path: Path, specs: Sequence[TensorSpec]) -> RowSource:
    """Rows of arrays named as the inputs."""
    return stored.StoredRows(path, FORM, _stored(path), specs)


def read_whole(path: Path, specs: Sequence[TensorSpec]) -> Arrays:
    """Arrays named as the shared inputs."""
    return stored.read_whole(path, FORM, _stored(path), specs)


def _stored(path: Path) -> list[stored.StoredArray]:
    with refusals.reading(path, FORM), zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if len(members) > _MEMBERS:
            raise DataRefused(f"{path}: {len(members)} members, no model has so many inputs")
        return [_array(path, archive, member) for member in members]


def _array(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> stored.StoredArray:
    name = member.filename.removesuffix(_SUFFIX)
    if member.compress_type not in _METHODS:
        raise DataRefused(
            f"{path}: member {refusals.shortened(name)!r} is compressed as numpy never does; "
            "write the file with np.savez or np.savez_compressed"
        )
    with archive.open(member) as stream:
        header = npy.read_header(
            path, f"member {refusals.shortened(member.filename)!r}", cast("BinaryIO", stream)
        )
    array = stored.StoredArray(
        name,
        header.dtype,
        header.shape,
        lambda: _opened(path, member, header.length),
        _offset(path, member, header),
        header.is_fortran,
    )
    if member.file_size != header.length + array.size:
        raise DataRefused(f"{path}: member {refusals.shortened(name)!r} is damaged: wrong length")
    return array


@contextmanager
def _opened(path: Path, member: zipfile.ZipInfo, skip: int) -> Iterator[BinaryIO]:
    with zipfile.ZipFile(path) as archive, archive.open(member) as stream:
        stream.read(skip)
        yield cast("BinaryIO", stream)


def _offset(path: Path, member: zipfile.ZipInfo, header: npy.Header) -> int | None:
    """Where the numbers of a stored member lie in the file; only Fortran order needs to know."""
    if member.compress_type != zipfile.ZIP_STORED or not header.is_fortran:
        return None
    with path.open("rb") as file:
        file.seek(member.header_offset)
        local = file.read(_LOCAL_HEADER_BYTES)
    # Lengths of the name and of the extra field, which may differ from the directory's.
    varying = int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
    return member.header_offset + _LOCAL_HEADER_BYTES + varying + header.length


class Writer(TableWriter):
    """Columns gather in nameless files, since a zip's members are written one after the other."""

    def __init__(self, path: Path, columns: Sequence[Column], rows: int) -> None:
        self._gathering: dict[str, BinaryIO] = {}
        for column in columns:
            if "\0" in column.name:
                raise DataRefused(f"{path}: {column.name!r} cannot be a name in .npz")
        super().__init__(path, [*columns, STATUS_COLUMN], rows)

    def _begin(self, file: BinaryIO) -> None:
        for column in self._columns:
            gathered = tempfile.TemporaryFile(dir=self._path.parent)  # noqa: SIM115 - see `_close`
            self._gathering[column.name] = cast("BinaryIO", gathered)

    def _write(self, file: BinaryIO, arrays: Mapping[str, Array], status: Status) -> None:
        for name, gathered in self._gathering.items():
            gathered.write(raw(status if name == STATUS_COLUMN.name else arrays[name]))

    def _end(self, file: BinaryIO) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            for column in self._columns:
                gathered = self._gathering[column.name]
                gathered.seek(0)
                with archive.open(column.name + _SUFFIX, "w", force_zip64=True) as member:
                    member.write(npy.encode_header(column.dtype, (self._rows, *column.shape)))
                    shutil.copyfileobj(gathered, member, _COPY_BYTES)

    def _keep(self) -> None:
        self._close()
        super()._keep()

    def _drop(self) -> None:
        super()._drop()
        self._close()

    def _close(self) -> None:
        for gathered in self._gathering.values():
            # Nameless, so nothing is left; a full disk may object to the last bytes once more.
            with suppress(OSError):
                gathered.close()
