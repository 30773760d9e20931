"""The process that touches submitters' models: `python -m server.adapters.recompute_child FOLDER`.

Carries out the one order in FOLDER (`recompute_messages`) under limits that it sets on itself before
it looks at the model, and ends. The only place on the server's side that loads ONNX Runtime and onnx.
Models run on the CPU, as on most vehicles, on one thread.
"""

from __future__ import annotations

import resource
import sys
import traceback
from pathlib import Path
from typing import Final

from server.adapters import recompute_messages as messages
from workunits import agreement, arrays, execution, graphs
from workunits.arrays import Arrays
from workunits.errors import WorkunitsError
from workunits.wire import codec, limits
from workunits.wire.messages import OutputRules, Program, Scope

# What ONNX Runtime and the allocators below it say when they get no memory; it has no class for it.
_NO_MEMORY: Final = ("bad_alloc", "bad allocation", "allocate memory", "out of memory")


def main() -> None:
    folder = Path(sys.argv[1])
    order = codec.unpack(
        (folder / messages.ORDER).read_bytes(), messages.Order, most=limits.MESSAGE_BYTES
    )
    _limit(order)
    reply = codec.pack(messages.Reply(_answer(order, folder)))
    unfinished = folder / f"{messages.REPLY}.new"
    unfinished.write_bytes(reply)
    unfinished.replace(folder / messages.REPLY)


def _limit(order: messages.Order) -> None:
    for kind, wanted in {
        resource.RLIMIT_AS: order.memory_bytes,
        # Should the server die, nobody else would end this process.
        resource.RLIMIT_CPU: order.cpu_s,
        resource.RLIMIT_FSIZE: messages.REPLY_BYTES,
        resource.RLIMIT_CORE: 0,
    }.items():
        allowed = resource.getrlimit(kind)[1]
        most = wanted if allowed == resource.RLIM_INFINITY else min(wanted, allowed)
        resource.setrlimit(kind, (most, most))


def _answer(order: messages.Order, folder: Path) -> messages.Answer:
    try:
        return _carry_out(order, folder)
    except MemoryError:
        return messages.OutOfMemory()
    except WorkunitsError as error:
        if _is_memory(error.__cause__):
            return messages.OutOfMemory()
        return messages.Failed(code=error.code, text=str(error))
    except Exception as error:
        traceback.print_exc()
        return messages.Broken(text=" ".join(f"{type(error).__name__}: {error}".split()))


def _carry_out(order: messages.Order, folder: Path) -> messages.Answer:
    match order.task:
        case messages.Vet() as task:
            return messages.Vetted(facts=graphs.vet(Path(task.model), name=task.name))
        case messages.Calibrate() as task:
            return messages.Calibrated(rules=_calibrate(task, folder))
        case messages.Run() as task:
            return messages.Ran(outputs=arrays.to_payload(_run(task, folder)))
        case messages.TellVersion():
            return messages.Version(version=execution.runtime_version())


def _calibrate(task: messages.Calibrate, folder: Path) -> OutputRules:
    outputs: agreement.Outputs = _run(task, folder)
    specs = task.program.outputs
    numbers = task.numbers
    if task.leaves_out:
        outputs = agreement.leave_out_failed(outputs, specs, numbers)
    return agreement.calibrate(
        outputs, specs, is_portable_exact=task.is_portable_exact, numbers=numbers
    )


def _run(task: messages.Calibrate | messages.Run, folder: Path) -> Arrays:
    inputs = _read(folder / messages.INPUTS, task.program, "row", task.rows)
    if (folder / messages.SHARED).exists():
        inputs |= _read(folder / messages.SHARED, task.program, "unit", None)
    loaded = execution.Loaded.open(Path(task.model), task.program, provider=execution.CPU)
    return execution.run(loaded, inputs, task.rows)


def _read(path: Path, program: Program, scope: Scope, rows: int | None) -> Arrays:
    specs = [spec for spec in program.inputs if spec.scope == scope]
    return arrays.from_payload(path.read_bytes(), specs, rows, most=limits.TENSOR_PAYLOAD_BYTES)


def _is_memory(error: BaseException | None) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(sign in text for sign in _NO_MEMORY)


if __name__ == "__main__":
    main()
