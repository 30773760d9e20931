"""Vetting, calibrating and running models in a process of its own, one for each order.

A model is a stranger's file, and the libraries that read it are large: what they do to their process
(crash, hang, take all memory) ends there and is an `Outage` here, in one line. What the contract says
of a model comes back as the exception that was raised there. Decides nothing about models; the
process is `recompute_child`.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, TypeVar

from server.adapters import recompute_messages as messages
from server.errors import Outage
from workunits import telemetry
from workunits.errors import ContractError, WorkunitsError
from workunits.wire import codec, limits
from workunits.wire.messages import ModelFacts, OutputRules, Program

A = TypeVar("A", bound=messages.Answer)

# 256 calibration rows of a network of 10 GFLOP per row take some minutes on one old core.
TIME_LIMIT_S: Final = 600.0
# Address space, most of it never touched: the largest model (2 GiB) lies in memory as bytes, as a
# parsed message and as ONNX Runtime's own tensors, beside its intermediate results.
MEMORY_LIMIT_BYTES: Final = 16 * 1024 * limits.MIB

_CHILD: Final = "server.adapters.recompute_child"
_LOG: Final = "log"
_LOG_TAIL_BYTES: Final = 4_000
# The process's own limit comes after the one here, which gives the better message.
_CPU_GRACE_S: Final = 5
_GIB: Final = 1024 * limits.MIB

_DOING: Final[dict[type[messages.Task], str]] = {
    messages.Vet: "vetting the model",
    messages.Calibrate: "calibrating the model",
    messages.Run: "running the model",
    messages.TellVersion: "asking for the version of ONNX Runtime",
}

_log = logging.getLogger("server.recompute")


@dataclass(frozen=True, slots=True)
class Recompute:
    """The port `server.ports.Recompute`; each call starts a process and waits for its end."""

    time_limit_s: float = TIME_LIMIT_S
    memory_limit_bytes: int = MEMORY_LIMIT_BYTES

    def vet(self, model: Path, *, name: str) -> ModelFacts:
        """What `graphs.vet` finds out about a model.

        Raises:
            GraphRefused: vehicles do not run such a model.
            Outage: the process gave no answer.
        """
        return self._ask(
            messages.Vet(model=str(model.absolute()), name=name), messages.Vetted
        ).facts

    def calibrate(
        self,
        model: Path,
        program: Program,
        inputs: bytes,
        shared: bytes | None,
        rows: int,
        *,
        is_portable_exact: bool,
        numbers: Sequence[int] | None = None,
        leaves_out: bool = False,
    ) -> OutputRules:
        """The rules that the outputs of these rows give; `inputs` and `shared` are tensor payloads.

        Raises:
            GraphRefused: an output is not a number on one of the rows; with `leaves_out`, on so many
                that fewer than two are left.
            TensorsRefused: the payloads, or the model, do not fit the program.
            ExecutionError: the model does not run on these rows.
            Outage: the process gave no answer.
        """
        task = messages.Calibrate(
            model=str(model.absolute()),
            program=program,
            rows=rows,
            is_portable_exact=is_portable_exact,
            numbers=tuple(range(rows) if numbers is None else numbers),
            leaves_out=leaves_out,
        )
        return self._ask(task, messages.Calibrated, inputs, shared).rules

    def run(
        self, model: Path, program: Program, inputs: bytes, shared: bytes | None, rows: int
    ) -> bytes:
        """The outputs of these rows as a tensor payload; errors as of `calibrate`."""
        task = messages.Run(model=str(model.absolute()), program=program, rows=rows)
        return self._ask(task, messages.Ran, inputs, shared).outputs

    def runtime_version(self) -> str:
        """The ONNX Runtime that calibrates."""
        return self._ask(messages.TellVersion(), messages.Version).version

    def _ask(
        self,
        task: messages.Task,
        expected: type[A],
        inputs: bytes | None = None,
        shared: bytes | None = None,
    ) -> A:
        doing = _DOING[type(task)]
        order = messages.Order(
            task=task,
            memory_bytes=self.memory_limit_bytes,
            cpu_s=ceil(self.time_limit_s) + _CPU_GRACE_S,
        )
        with TemporaryDirectory(prefix="tesla-at-home-") as name:
            folder = Path(name)
            _write(folder, order, inputs, shared)
            status = self._run_child(folder, doing)
            answer = _read_answer(folder, status, doing)
        if isinstance(answer, expected):
            return answer
        raise self._failure(answer, doing)

    def _run_child(self, folder: Path, doing: str) -> int:
        """The exit status of the process, negative for a signal."""
        with (folder / _LOG).open("wb") as log:
            try:
                return subprocess.run(
                    [sys.executable, "-P", "-m", _CHILD, str(folder)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    timeout=self.time_limit_s,
                    env=_environment(),
                    check=False,
                ).returncode
            except subprocess.TimeoutExpired:
                raise Outage(
                    f"{doing} took longer than {self.time_limit_s:g} s and was stopped"
                ) from None
            except OSError as error:
                raise Outage(f"{doing}: no process could be started: {error.strerror}") from error

    def _failure(self, answer: messages.Answer, doing: str) -> Exception:
        match answer:
            case messages.Failed(code=code, text=text):
                return _exceptions().get(code, ContractError)(text)
            case messages.OutOfMemory():
                most = f"{self.memory_limit_bytes / _GIB:g} GiB"
                return Outage(f"{doing} needs more memory than the {most} it is given")
            case messages.Broken(text=text):
                return Outage(f"{doing} failed: {text}")
            case _:
                return Outage(f"{doing} failed: the process answered another question")


def _write(folder: Path, order: messages.Order, inputs: bytes | None, shared: bytes | None) -> None:
    (folder / messages.ORDER).write_bytes(codec.pack(order))
    if inputs is not None:
        (folder / messages.INPUTS).write_bytes(inputs)
    if shared is not None:
        (folder / messages.SHARED).write_bytes(shared)


def _read_answer(folder: Path, status: int, doing: str) -> messages.Answer:
    log = (folder / _LOG).read_bytes()[-_LOG_TAIL_BYTES:]
    if log:
        _log.error("recompute.log", extra={"doing": doing, "tail": log.decode(errors="replace")})
    try:
        raw = (folder / messages.REPLY).read_bytes()
    except FileNotFoundError:
        raise Outage(f"{doing} failed: its process {_end(status)}") from None
    try:
        return codec.unpack(raw, messages.Reply, most=messages.REPLY_BYTES).answer
    except ContractError as error:
        raise Outage(f"{doing} failed: its process gave no answer that can be read") from error


def _end(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    if -status == signal.SIGKILL:
        return "was killed; the computer may be out of memory"
    return f"crashed ({signal.Signals(-status).name})"


def _environment() -> dict[str, str]:
    """This process's, with its import path: the same code runs there, and nothing from the cwd."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    # Each of OpenBLAS's threads would reserve address space that counts against the limit.
    return os.environ | telemetry.OFF | {"PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"}


def _exceptions() -> dict[str, type[WorkunitsError]]:
    """Every class of the contract by its code."""
    found: dict[str, type[WorkunitsError]] = {}
    waiting: list[type[WorkunitsError]] = [WorkunitsError]
    while waiting:
        kind = waiting.pop()
        found[kind.code] = kind
        waiting += kind.__subclasses__()
    return found
