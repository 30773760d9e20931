"""Computes one unit after the other with one model, step by step into the spool.

The part of the computing process that does the work; how it is tied to its agent stands in
`runner_child`, which loads this. The only module of the vehicle that loads numpy, onnx or onnxruntime.
"""

from __future__ import annotations

import errno
import hashlib
import os
import queue
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tesla_at_home.adapters import frames, spool
from tesla_at_home.ports import Job, Measure
from workunits import arrays, execution, graphs
from workunits.arrays import Arrays
from workunits.errors import SpoolDamaged, WorkunitsError
from workunits.execution import Loaded
from workunits.program import step_count
from workunits.trust import digests
from workunits.values import Digest
from workunits.wire import limits, tensors

Jobs = queue.SimpleQueue[Job]
# What ONNX Runtime says where Python would raise MemoryError.
_NO_MEMORY: Final = ("Failed to allocate memory", "bad_alloc", "bad allocation")
_FILE_CODES: Final = {
    errno.ENOSPC: "disk_full",
    errno.EDQUOT: "disk_full",
    errno.EROFS: "disk_full",
    errno.EFBIG: "output_too_large",
}


@dataclass(frozen=True, slots=True)
class _Model:
    """The one model of this process."""

    digest: Digest
    loaded: Loaded


class Child:
    """Takes jobs as they come from the agent, and answers over the other pipe."""

    def __init__(self, jobs: Jobs, pipe_out: int) -> None:
        self._jobs = jobs
        self._out = pipe_out
        self._ended = threading.Event()
        self._model: _Model | None = None

    def work(self, measures: tuple[Measure, ...]) -> None:
        """Compute for ever; the process ends when its agent does."""
        self._say(frames.Begun(execution.runtime_version(), measures))
        while True:
            job = self._jobs.get()
            try:
                self._compute(job)
            except BrokenPipeError:
                raise
            except Exception as error:
                # Also a bug of ours: one unit that fails is better than one tried for ever.
                code, detail = _failure(error)
                self._say(frames.Failed(job.lease, code, detail))

    def _compute(self, job: Job) -> None:
        loaded = self._open(job)
        inputs = _read_inputs(job)
        first_step, file = _open_spool(job, loaded)
        ready = frames.Ready(job.lease, loaded.provider, execution.runtime_version(), first_step)
        try:
            self._say(ready)
            self._steps(job, loaded, inputs, first_step, file)
        finally:
            file.close()
        digest, size = _write_output(job)
        self._say(frames.Done(job.lease, digest, size))

    def _steps(
        self, job: Job, loaded: Loaded, inputs: Arrays, first_step: int, file: spool.Spool
    ) -> None:
        synced_s = began_s = time.monotonic()
        for step, outputs in loaded.steps(inputs, job.rows, first_step):
            file.append(step.number, arrays.to_payload(outputs))
            took_s = time.monotonic() - began_s
            self._say(frames.Stepped(job.lease, step.number, int(took_s * 1000)))
            if time.monotonic() - synced_s >= job.checkpoint_s:
                file.sync()
                synced_s = time.monotonic()
            # Rest so that steps take `duty` percent of the time; the end of the agent wakes it.
            self._ended.wait(took_s * (100.0 / job.duty - 1.0))
            began_s = time.monotonic()
        file.sync()

    def _open(self, job: Job) -> Loaded:
        if self._model is None or self._model.digest != job.program.model:
            path = Path(job.model)
            digests.expect(_plain_digest(path), job.program.model, "model")
            graphs.vet(path, name=job.model_name)
            loaded = Loaded.open(path, job.program, threads=job.threads)
            self._model = _Model(job.program.model, loaded)
        elif self._model.loaded.program != job.program:
            loaded = Loaded.open(Path(job.model), job.program, threads=job.threads)
            self._model = _Model(job.program.model, loaded)
        return self._model.loaded

    def _say(self, frame: frames.ToAgent) -> None:
        view = memoryview(frames.pack(frame))
        while view:
            view = view[os.write(self._out, view) :]


def _read_inputs(job: Job) -> Arrays:
    inputs: Arrays = {}
    for part in job.inputs:
        raw = Path(part.path).read_bytes()
        digests.expect(digests.of_tensors(raw), part.digest, "input")
        specs = [spec for spec in job.program.inputs if spec.scope == part.scope]
        inputs |= arrays.from_payload(raw, specs, job.rows, most=limits.TENSOR_PAYLOAD_BYTES)
    return inputs


def _open_spool(job: Job, loaded: Loaded) -> tuple[int, spool.Spool]:
    """The file to append to, and the first step: 0 where the steps there were computed otherwise."""
    path = Path(job.spool)
    origin = spool.Origin(
        lease=job.lease,
        provider=loaded.provider,
        onnxruntime=execution.runtime_version(),
        threads=job.threads,
    )
    found = spool.scan(path)
    if found.origin == origin and len(found.steps) >= job.first_step:
        return job.first_step, spool.Spool.go_on(path, found.end_of(job.first_step))
    return 0, spool.Spool.begin(path, origin)


def _write_output(job: Job) -> tuple[Digest, int]:
    """All steps as one payload, streamed: only one step is in memory at a time."""
    path = Path(job.output)
    part = path.with_suffix(".part")
    found = spool.scan(Path(job.spool))
    if len(found.steps) != step_count(job.rows, job.program.rows_per_step):
        raise SpoolDamaged(f"{job.spool}: lacks steps")
    forms = {
        spec.name: tensors.Form(spec.dtype, (job.rows, *spec.shape)) for spec in job.program.outputs
    }
    running = digests.streamed_tensors()
    with part.open("wb") as file:
        for piece in _pieces(job, found, forms):
            running.update(piece)
            file.write(piece)
        size = file.tell()
        file.flush()
        os.fsync(file.fileno())
    part.rename(path)
    _sync_directory(path.parent)
    return Digest(running.digest()), size


def _pieces(
    job: Job, found: spool.Scan, forms: dict[str, tensors.Form]
) -> Iterator[tensors.Buffer]:
    yield tensors.encode_header(forms)
    for name in tensors.in_order(forms):
        for raw in spool.payloads(Path(job.spool), found):
            yield tensors.decode(raw, most=limits.TENSOR_PAYLOAD_BYTES)[name].data


def _plain_digest(path: Path) -> Digest:
    with path.open("rb") as file:
        return Digest(hashlib.file_digest(file, "sha256").digest())


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _failure(error: Exception) -> tuple[str, str]:
    """Code and line for what went wrong with a unit."""
    if isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY):
        return "out_of_memory", "needs more memory than limits.memory gives"
    if isinstance(error, WorkunitsError):
        return error.code, _one_line(error)
    if isinstance(error, OSError) and error.errno in _FILE_CODES:
        return _FILE_CODES[error.errno], f"the unit's files: {error.strerror}"
    sys.excepthook(type(error), error, error.__traceback__)
    return "child_failed", f"{type(error).__name__}: {_one_line(error)}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[: limits.TEXT_CHARS]
