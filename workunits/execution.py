"""Runs a program over rows, step by step, so that any step can be computed again to the same bits.

Decides how ONNX Runtime is set up (PROTOCOL 6.2) and which execution provider counts as "got". Which
models are allowed is `graphs`' question, whether two results agree is `agreement`'s. The only import
of onnxruntime.

Bits, on one machine: every call has the same number of rows (the last is padded with its last row),
threads and optimisation are fixed, and inputs lie at the same alignment in memory, because vectorised
sums group their terms by address: without it a mean over 1,001 float32 had four different results.

Provider: ONNX Runtime falls back to the CPU without an error where CUDA cannot be loaded, so what a
session really got is read back. `session.disable_cpu_ep_fallback` is not used: it refuses every graph
of which one node stays on the CPU, and ONNX Runtime puts shape arithmetic there on purpose. A session
counts as CUDA when CUDA is its first provider and, where the runtime can tell (1.24 and newer), at
least one node was placed there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Final

import numpy as np

from workunits import arrays, telemetry
from workunits.arrays import NUMPY_DTYPES, Array, Arrays
from workunits.errors import ExecutionError, ProviderUnavailable, TensorsRefused
from workunits.program import Step, check_runtime, step, step_count
from workunits.wire.limits import TEXT_CHARS
from workunits.wire.messages import Dtype, Program, TensorSpec

# Before the import, which would begin to write and to send.
os.environ.update(telemetry.OFF)
import onnxruntime

CUDA: Final = "CUDAExecutionProvider"
CPU: Final = "CPUExecutionProvider"
# Best first; others of ONNX Runtime's are not used before their results have been measured.
PROVIDERS: Final = (CUDA, CPU)

# TF32 drops 13 bits of each factor; an algorithm found by timing differs from run to run; an arena
# that grows by powers of two takes up to twice the memory that a fixed step needs.
_CUDA_OPTIONS: Final = {
    "use_tf32": "0",
    "cudnn_conv_algo_search": "DEFAULT",
    "arena_extend_strategy": "kSameAsRequested",
}
_CONFIG: Final = {
    # A waiting thread that spins takes a whole core of the owner's.
    "session.intra_op.allow_spinning": "0",
    "session.inter_op.allow_spinning": "0",
    # Else a file named *.ort would be read as another format, which was never vetted.
    "session.load_model_format": "ONNX",
    # Read by `_is_used`; runtimes before 1.24 do not know it and ignore it.
    "session.record_ep_graph_assignment_info": "1",
}
_OPTIMISATION: Final = {
    "off": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
_RUNTIME_NAMES: Final[dict[Dtype, str]] = {dtype: f"tensor({dtype})" for dtype in NUMPY_DTYPES} | {
    "float32": "tensor(float)",
    "float64": "tensor(double)",
}
_SILENT: Final = 4  # fatal only: what goes wrong is raised, once, as one line
# Every vector unit's width and a cache line; ONNX Runtime aligns its own tensors alike or wider.
_ALIGNMENT_BYTES: Final = 64


def runtime_version() -> str:
    """The ONNX Runtime installed here, as in `Program.runtime_from`."""
    return str(onnxruntime.__version__)


def available_providers() -> tuple[str, ...]:
    """Execution providers that this ONNX Runtime was built with and we use, best first.

    One that is built in may still not load (no driver, no cuDNN); only `Loaded.provider` tells.
    """
    built_in = onnxruntime.get_available_providers()
    return tuple(provider for provider in PROVIDERS if provider in built_in)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model ready to run: its program, and the provider that its session really got."""

    program: Program
    provider: str
    _session: onnxruntime.InferenceSession

    @classmethod
    def open(
        cls, model: Path, program: Program, *, provider: str | None = None, threads: int = 1
    ) -> Loaded:
        """Open a vetted model whose bytes were checked against `program.model`.

        `provider` None takes the best there is. More `threads` may give other last bits.

        Raises:
            RuntimeOutOfRange: the program does not allow this ONNX Runtime.
            ProviderUnavailable: `provider` was asked for and is not what the session got.
            TensorsRefused: the model's inputs or outputs are not those of the program.
            ExecutionError: ONNX Runtime cannot load the model.
        """
        check_runtime(program, runtime_version())
        wanted = available_providers() if provider is None else (provider,)
        for candidate in wanted:
            session = _open_session(model, program, candidate, threads)
            if session is not None:
                _check_interface(session, program)
                return cls(program, candidate, session)
        raise ProviderUnavailable(
            f"{' or '.join(wanted)} cannot be used here; there are {', '.join(available_providers())}"
        )

    def steps(
        self, inputs: Arrays, rows: int, first_step: int = 0
    ) -> Iterator[tuple[Step, Arrays]]:
        """The outputs of each step from `first_step` on, cut to its rows.

        `inputs` are all rows of the unit, and what they share; they are checked before this returns.

        Raises:
            TensorsRefused: inputs, or what the model gave, do not fit the program.
            ExecutionError: a step failed; those before it are good.
        """
        arrays.check(inputs, self.program.inputs, rows)
        return self._each_step(inputs, rows, first_step)

    def _each_step(
        self, inputs: Arrays, rows: int, first_step: int
    ) -> Iterator[tuple[Step, Arrays]]:
        program = self.program
        feed = _Feed(program, inputs)
        for number in range(first_step, step_count(rows, program.rows_per_step)):
            now = step(number, rows, program.rows_per_step)
            outputs = self._call(feed.of(now), now)
            yield now, {name: array[: now.rows] for name, array in outputs.items()}

    def _call(self, feed: Arrays, now: Step) -> Arrays:
        names = [spec.name for spec in self.program.outputs]
        try:
            results = self._session.run(names, feed)
        except Exception as error:  # its errors have no common base
            raise _failure(f"step {now.number}, rows from {now.first}", error) from error
        outputs = dict(zip(names, results, strict=True))
        arrays.check(outputs, self.program.outputs, self.program.rows_per_step)
        return outputs


def run(loaded: Loaded, inputs: Arrays, rows: int) -> Arrays:
    """All steps at once, for rows whose outputs fit into memory; errors as of `Loaded.steps`."""
    outputs: Arrays = {
        spec.name: np.empty((rows, *spec.shape), NUMPY_DTYPES[spec.dtype])
        for spec in loaded.program.outputs
    }
    for now, part in loaded.steps(inputs, rows):
        for name, array in part.items():
            outputs[name][now.first : now.first + now.rows] = array
    return outputs


class _Feed:
    """The arrays of one call, filled anew for each step at the same aligned addresses."""

    def __init__(self, program: Program, inputs: Arrays) -> None:
        self._inputs = inputs
        self._arrays = {spec.name: _aligned(spec, program) for spec in program.inputs}
        self._row_names = [spec.name for spec in program.inputs if spec.scope == "row"]
        for spec in program.inputs:
            if spec.scope == "unit":
                self._arrays[spec.name][...] = inputs[spec.name]

    def of(self, now: Step) -> Arrays:
        """Rows of `now`, the last one repeated to the step's full size."""
        for name in self._row_names:
            rows = self._inputs[name][now.first : now.first + now.rows]
            self._arrays[name][: now.rows] = rows
            self._arrays[name][now.rows :] = rows[-1:]
        return self._arrays


def _aligned(spec: TensorSpec, program: Program) -> Array:
    shape = spec.shape if spec.scope == "unit" else (program.rows_per_step, *spec.shape)
    dtype = NUMPY_DTYPES[spec.dtype]
    size = prod(shape) * dtype.itemsize
    room = np.empty(size + _ALIGNMENT_BYTES, np.uint8)
    start = -room.ctypes.data % _ALIGNMENT_BYTES
    return room[start : start + size].view(dtype).reshape(shape)


def _open_session(
    model: Path, program: Program, provider: str, threads: int
) -> onnxruntime.InferenceSession | None:
    """A session on `provider`; None where ONNX Runtime has it not, or quietly took another."""
    if provider not in available_providers():
        return None
    # What a provider prints when its libraries are missing goes past the session's own settings.
    onnxruntime.set_default_logger_severity(_SILENT)
    providers = [(CUDA, _CUDA_OPTIONS), (CPU, {})] if provider == CUDA else [(CPU, {})]
    try:
        session = onnxruntime.InferenceSession(
            str(model),
            _options(program, threads),
            providers=providers,
            enable_fallback=0,  # else a failure is printed, and the session opened on the CPU
        )
    except Exception as error:  # its errors have no common base
        if provider != CPU:
            return None  # the CPU says what is wrong with the model itself
        raise _failure(f"{model.name} cannot be loaded", error, model) from error
    return session if _is_used(session, provider) else None


def _options(program: Program, threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = _OPTIMISATION[program.optimisation]
    options.use_deterministic_compute = True
    options.log_severity_level = _SILENT
    for key, value in _CONFIG.items():
        options.add_session_config_entry(key, value)
    return options


def _is_used(session: onnxruntime.InferenceSession, provider: str) -> bool:
    if session.get_providers()[0] != provider:
        return False
    placement = getattr(session, "get_provider_graph_assignment_info", None)
    if provider == CPU or placement is None:
        return True
    return any(part.ep_name == provider for part in placement())


def _check_interface(session: onnxruntime.InferenceSession, program: Program) -> None:
    _check_ends("input", session.get_inputs(), program.inputs, program.rows_per_step)
    _check_ends("output", session.get_outputs(), program.outputs, program.rows_per_step)


def _check_ends(
    what: str, found: Sequence[onnxruntime.NodeArg], specs: Sequence[TensorSpec], rows: int
) -> None:
    by_name = {end.name: end for end in found}
    if by_name.keys() != {spec.name for spec in specs}:
        raise TensorsRefused(
            f"the model's {what}s are {sorted(by_name)}, "
            f"the program's {sorted(spec.name for spec in specs)}"
        )
    for spec in specs:
        _check_end(what, by_name[spec.name], spec, rows)


def _check_end(what: str, end: onnxruntime.NodeArg, spec: TensorSpec, rows: int) -> None:
    if end.type != _RUNTIME_NAMES[spec.dtype]:
        raise TensorsRefused(f"{what} {spec.name!r} is {end.type} in the model, not {spec.dtype}")
    wanted = spec.shape if spec.scope == "unit" else (rows, *spec.shape)
    if not _may_be(end.shape, wanted):
        raise TensorsRefused(
            f"{what} {spec.name!r} has shape {end.shape} in the model, not {list(wanted)}"
        )


def _may_be(declared: Sequence[int | str | None], wanted: tuple[int, ...]) -> bool:
    """Whether a declared shape allows `wanted`: a named axis may be anything, until it has run."""
    return len(declared) == len(wanted) and all(
        size == axis for axis, size in zip(declared, wanted, strict=True) if isinstance(axis, int)
    )


def _failure(what: str, error: Exception, model: Path | None = None) -> ExecutionError:
    """One line without the codes and paths that ONNX Runtime's messages carry."""
    text = str(error).rpartition("Status Message: ")[2] or type(error).__name__
    if model is not None:
        text = text.replace(str(model), model.name)
    if text.startswith("[ONNXRuntimeError]"):
        text = text.split(" : ", 3)[-1]
    return ExecutionError(f"{what}: {' '.join(text.split())}"[:TEXT_CHARS])
