"""A try of the computing process: the real one, confined as always, with a graph of one addition.

Tells `doctor` what took effect and what it computes with. Decides nothing, keeps nothing.
"""

from __future__ import annotations

import queue
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tesla_at_home.adapters.runner import ChildRunner
from tesla_at_home.agent.events import ChildGone, ChildReady, Event, UnitDone, UnitFailed
from tesla_at_home.ports import InputFile, Job, Measure
from workunits.trust import digests
from workunits.values import LeaseId
from workunits.wire import tensors
from workunits.wire.messages import Program, TensorSpec

# y = x + x, in the ONNX of opset 17; tests/integration/test_doctor.py makes it again.
GRAPH: Final = bytes.fromhex(
    "080812003a490a0e0a01780a01781201792203416464120570726f62655a170a017812120a100801120c0a06"
    "1204726f77730a02080162170a017912120a100801120c0a061204726f77730a02080142040a001011"
)
# Loading ONNX Runtime from an SD card, on a computer that is busy.
TIME_LIMIT_S: Final = 120.0
_NUMBERS: Final = (1.0, -2.0, 0.5, 3.0)


@dataclass(frozen=True, slots=True)
class Probed:
    """What became of the try; `fault` None: it computed what it should."""

    measures: tuple[Measure, ...] = ()
    provider: str = ""
    onnxruntime: str = ""
    fault: str | None = None


def probe(directory: Path, memory_bytes: int) -> Probed:
    """Start a computing process in the vehicle's directory and have it compute.

    Raises:
        OSError: nothing can be written there.
    """
    with tempfile.TemporaryDirectory(dir=directory, prefix="doctor-") as folder:
        return _run(Path(folder), memory_bytes)


def _run(folder: Path, memory_bytes: int) -> Probed:
    posted: queue.Queue[Event] = queue.Queue()
    runner = ChildRunner(posted.put, folder / "child.log")
    found = Probed()
    try:
        job = _job(folder, memory_bytes)
        runner.run(job)
        while True:
            match posted.get(timeout=TIME_LIMIT_S):
                case ChildReady(_, provider, onnxruntime):
                    found = Probed(runner.measures(), provider, onnxruntime)
                case UnitDone():
                    fault = None if _is_right(Path(job.output)) else "it computes wrong numbers"
                    return Probed(found.measures, found.provider, found.onnxruntime, fault)
                case UnitFailed(_, code, detail):
                    return Probed(runner.measures(), fault=f"{code}: {detail}")
                case ChildGone(detail):
                    return Probed(fault=f"{detail}{_last_words(folder / 'child.log')}")
    except queue.Empty:
        return Probed(runner.measures(), fault=f"it said nothing for {TIME_LIMIT_S:.0f} s")
    finally:
        runner.close()


def _job(folder: Path, memory_bytes: int) -> Job:
    model, part = folder / "model", folder / "input"
    model.write_bytes(GRAPH)
    raw = _payload("x", _NUMBERS)
    part.write_bytes(raw)
    lease = LeaseId(bytes(16))
    return Job(
        lease=lease,
        model=str(model),
        model_name="probe",
        program=Program(
            model=digests.plain(GRAPH),
            inputs=(TensorSpec(name="x", dtype="float32", shape=(1,)),),
            outputs=(TensorSpec(name="y", dtype="float32", shape=(1,)),),
            rows_per_step=2,
            optimisation="all",
            precision="fp32",
            runtime_from="1",
            runtime_below="1000",
            kflop_per_row=0,
        ),
        rows=len(_NUMBERS),
        inputs=(InputFile(str(part), "row", digests.of_tensors(raw)),),
        spool=str(folder / "probe.steps"),
        output=str(folder / "probe.output"),
        first_step=0,
        threads=1,
        duty=100.0,
        checkpoint_s=0.0,
        memory_bytes=memory_bytes,
    )


def _is_right(output: Path) -> bool:
    return output.read_bytes() == _payload("y", tuple(2 * number for number in _NUMBERS))


def _payload(name: str, numbers: tuple[float, ...]) -> bytes:
    data = struct.pack(f"<{len(numbers)}f", *numbers)
    return tensors.encode({name: tensors.RawTensor("float32", (len(numbers), 1), data)})


def _last_words(log: Path) -> str:
    """The last line that it printed, which names the missing library where one is missing."""
    try:
        lines = log.read_text(errors="replace").split("\n")
    except OSError:
        return ""
    said = [line.strip() for line in lines if line.strip()]
    return f": {said[-1]}" if said else ""
