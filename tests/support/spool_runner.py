"""A `Runner` without a process: the toy's steps into a real spool, one at each call of `step`.

Reads the unit's index from its input, so a wrong input gives a wrong output. Decides nothing: what is
computed, stopped and ended is said by the agent, as to the real child.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tesla_at_home.adapters import spool
from tesla_at_home.agent.events import (
    ChildReady,
    Event,
    StepDone,
    UnitDone,
    UnitFailed,
    UnitStarted,
)
from tesla_at_home.ports import Job
from tests.support.work_server import output_of
from workunits.errors import WorkunitsError
from workunits.program import step_count
from workunits.trust import digests
from workunits.wire import limits, tensors

_PROVIDER: Final = "CPUExecutionProvider"
_RUNTIME: Final = "1.20.0"
_STEP_MS: Final = 50


class SpoolRunner:
    """Implements the port `Runner`; nothing happens until `step` is called."""

    def __init__(self, post: Callable[[Event], None]) -> None:
        self._post = post
        self._job: Job | None = None
        self._next: int | None = None  # None: the job has not begun
        self._is_stopped = False
        self.steps_computed = 0

    def run(self, job: Job) -> None:
        self._job, self._next, self._is_stopped = job, None, False

    def stop(self) -> None:
        self._is_stopped = True

    def go_on(self) -> None:
        self._is_stopped = False

    def kill(self) -> None:
        self._job = None

    def close(self) -> None:
        self.kill()

    def memory_bytes(self) -> int:
        return 0

    def step(self) -> bool:
        """Begin the job, do its next step, or put its output together; False if there is none."""
        job = self._job
        if job is None or self._is_stopped:
            return False
        try:
            self._go_on(job)
        except WorkunitsError as error:
            self._job = None
            self._post(UnitFailed(job.lease, error.code, str(error)))
        return True

    def _go_on(self, job: Job) -> None:
        if self._next is None:
            self._next = _begin(job)
            self._post(ChildReady(job.lease, _PROVIDER, _RUNTIME))
            self._post(UnitStarted(job.lease, self._next))
        elif self._next < step_count(job.rows, job.program.rows_per_step):
            _compute(job, self._next)
            self._post(StepDone(job.lease, self._next, _STEP_MS))
            self._next += 1
            self.steps_computed += 1
        else:
            self._job = None
            raw = _put_together(job)
            self._post(UnitDone(job.lease, digests.of_tensors(raw), len(raw)))


def _begin(job: Job) -> int:
    """The first step: behind those in the spool, if they were computed alike."""
    path = Path(job.spool)
    origin = spool.Origin(
        lease=job.lease, provider=_PROVIDER, onnxruntime=_RUNTIME, threads=job.threads
    )
    found = spool.scan(path)
    if found.origin == origin and len(found.steps) >= job.first_step:
        spool.Spool.go_on(path, found.end_of(job.first_step)).close()
        return job.first_step
    spool.Spool.begin(path, origin).close()
    return 0


def _compute(job: Job, step: int) -> None:
    """Append the step's rows, made durable at once: checkpoints are not this runner's subject."""
    rows_per_step, width = job.program.rows_per_step, job.program.outputs[0].shape[0]
    whole = output_of(_index_of(job), job.rows, width=width)
    data = tensors.decode(whole, most=limits.TENSOR_PAYLOAD_BYTES)["y"].data
    first, end = step * rows_per_step, min((step + 1) * rows_per_step, job.rows)
    part = tensors.RawTensor(
        "float32", (end - first, width), data[4 * width * first : 4 * width * end]
    )
    path = Path(job.spool)
    file = spool.Spool.go_on(path, spool.scan(path).end)
    try:
        file.append(step, tensors.encode({"y": part}))
        file.sync()
    finally:
        file.close()


def _index_of(job: Job) -> int:
    (part,) = job.inputs
    raw = Path(part.path).read_bytes()
    digests.expect(digests.of_tensors(raw), part.digest, "input")
    data = tensors.decode(raw, most=limits.TENSOR_PAYLOAD_BYTES)["x"].data
    return int(struct.unpack_from("<f", data)[0])


def _put_together(job: Job) -> bytes:
    """The steps of the spool as one payload; written as the real child writes it."""
    path = Path(job.spool)
    data = b"".join(
        bytes(tensors.decode(raw, most=limits.TENSOR_PAYLOAD_BYTES)["y"].data)
        for raw in spool.payloads(path, spool.scan(path))
    )
    width = job.program.outputs[0].shape[0]
    raw = tensors.encode({"y": tensors.RawTensor("float32", (job.rows, width), data)})
    part = Path(job.output).with_suffix(".part")
    with part.open("wb") as file:
        file.write(raw)
        file.flush()
        os.fsync(file.fileno())
    part.rename(job.output)
    return raw
