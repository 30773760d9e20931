"""The cell: the one folder that a computing process sees, made for it and gone with it.

The files of a unit are linked into it, so nothing is copied and nothing moved: steps that the child
appends are in the agent's spool at once. `in` is read, `out` is written; other units, other models
and the vehicle's key are outside. On a file system without hard links the child is given the folders
themselves, and `is_own` says so. Whether the output is what the program gives is looked at here,
since it is the child that wrote it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import Final, Self

import msgspec

from tesla_at_home.adapters.conversation import Misspoken
from tesla_at_home.adapters.files import sync_directory
from tesla_at_home.ports import InputFile, Job
from workunits.program import step_count
from workunits.wire import tensors
from workunits.wire.limits import KIB

_CELLS: Final = "cells"
# FAT and some network file systems, or models that lie on another disk.
_NO_LINKS: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV})
# A head and its checksum before each step, and the origin before all: see `spool`.
_HEAD_BYTES: Final = 32
_ORIGIN_BYTES: Final = 4 * KIB
# Steps, the output and the output in the making; a few more, if a driver keeps something.
_FILES_AT_MOST: Final = 16


class Cell:
    """One process's folder, or none of its own where files cannot be linked."""

    def __init__(self, folder: Path | None, job: Job) -> None:
        self._folder = folder
        self._job = job

    @classmethod
    def make(cls, job: Job) -> Self:
        """A new folder beside the spool of the process's first job."""
        cells = Path(job.spool).parent / _CELLS
        cells.mkdir(mode=0o700, exist_ok=True)
        cell = cls(Path(tempfile.mkdtemp(dir=cells)), job)
        try:
            cell._furnish()
        except OSError as error:
            cell.remove()
            if error.errno in _NO_LINKS:
                return cls(None, job)
            raise
        return cell

    def _furnish(self) -> None:
        assert self._folder is not None
        for name in ("in", "out"):
            (self._folder / name).mkdir(mode=0o700)
        _link(self._job.model, self._folder / "in")

    @property
    def is_own(self) -> bool:
        """Whether the child sees the files of its own unit only."""
        return self._folder is not None

    @property
    def reads(self) -> tuple[str, ...]:
        if self._folder is not None:
            return (str(self._folder / "in"),)
        files = (self._job.model, *(part.path for part in self._job.inputs))
        return tuple(sorted({str(Path(file).parent) for file in files}))

    @property
    def writes(self) -> tuple[str, ...]:
        if self._folder is not None:
            return (str(self._folder / "out"),)
        return (str(Path(self._job.spool).parent),)

    def admit(self, job: Job) -> Job:
        """Bring in the files of a unit in the place of those before; the job as the child sees it.

        Raises:
            OSError: one of them is not there, or the disk takes no more.
        """
        self._job = job
        if self._folder is None:
            return job
        inside, outside = self._folder / "in", self._folder / "out"
        for folder in (inside, outside):
            _empty(folder)
        steps = Path(job.spool)
        if not steps.exists():
            steps.touch(mode=0o600)
            # The child makes its own folder durable; a power cut may take this name.
            sync_directory(steps.parent)
        os.link(steps, outside / steps.name)
        return msgspec.structs.replace(
            job,
            model=_link(job.model, inside),
            inputs=tuple(
                InputFile(_link(part.path, inside), part.scope, part.digest) for part in job.inputs
            ),
            spool=str(outside / steps.name),
            output=str(outside / Path(job.output).name),
        )

    def bring_out(self, size: int) -> None:
        """The unit's output, to where the agent looks for it, durably.

        Raises:
            Misspoken: it is not the `size` bytes that it was said to be, or not what the program gives.
            OSError: the disk does not take it.
        """
        output = Path(self._job.output)
        found = output if self._folder is None else self._folder / "out" / output.name
        _check_output(found, size, self._job)
        if found != output:
            found.rename(output)
            sync_directory(output.parent)

    def is_overfull(self, pid: int) -> bool:
        """Whether its process wrote more than the unit can give; a limit of one file stops one file.

        Raises:
            OSError: something of it is gone, or is hidden from us.
        """
        if self._folder is None:
            return False
        sizes = [self.nameless_bytes(pid)]
        with os.scandir(self._folder / "out") as entries:
            for entry in entries:
                sizes.append(entry.stat(follow_symlinks=False).st_size)
                if len(sizes) > _FILES_AT_MOST + 1:
                    return True
        return sum(sizes) > 3 * file_bytes(self._job) or self.has_nameless_mapping(pid)

    def nameless_bytes(self, pid: int) -> int:
        """What the process still holds of files that it removed: on the disk, and in no folder."""
        sizes: dict[tuple[int, int], int] = {}
        with os.scandir(f"/proc/{pid}/fd") as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    found = entry.stat()
                    if stat.S_ISREG(found.st_mode) and found.st_nlink == 0:
                        sizes[found.st_dev, found.st_ino] = found.st_size
        return sum(sizes.values())

    def has_nameless_mapping(self, pid: int) -> bool:
        """Whether it maps a file that it removed; how large that is cannot be seen, and none does."""
        assert self._folder is not None
        start, end = f" {self._folder}/out/".encode(), b" (deleted)\n"
        with open(f"/proc/{pid}/maps", "rb") as lines:
            return any(line.endswith(end) and start in line for line in lines)

    def remove(self) -> None:
        """The folder and its names; what the agent keeps has names of its own."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def remove_left_over(job: Job) -> None:
    """Cells of processes that were killed together with their agent."""
    shutil.rmtree(Path(job.spool).parent / _CELLS, ignore_errors=True)


def file_bytes(job: Job) -> int:
    """The largest file that the unit can give: all its steps, or its output."""
    steps = step_count(job.rows, job.program.rows_per_step)
    one_step = tensors.payload_bytes(job.program.outputs, job.program.rows_per_step)
    return steps * (one_step + _HEAD_BYTES) + _ORIGIN_BYTES


def _check_output(path: Path, size: int, job: Job) -> None:
    forms = {
        spec.name: tensors.Form(spec.dtype, (job.rows, *spec.shape)) for spec in job.program.outputs
    }
    header = tensors.encode_header(forms)
    wanted = tensors.payload_bytes(job.program.outputs, job.rows)
    # Neither a pipe, on which an agent waits for ever, nor a link to another file.
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise Misspoken(f"no output is there: {error.strerror}") from None
    with open(handle, "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_size != size or size != wanted:
            raise Misspoken(f"an output of {found.st_size} bytes, not of {wanted}")
        if file.read(len(header)) != header:
            raise Misspoken("an output of other names, types or shapes than the program's")


def _link(path: str, folder: Path) -> str:
    inside = folder / Path(path).name
    # Two inputs may be the same file.
    if not inside.exists():
        os.link(path, inside)
    return str(inside)


def _empty(folder: Path) -> None:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)
