"""What a computing process may say about one unit, and in which order.

The child computes a stranger's graph, so its words are a stranger's too: ready, then each step once,
then done or failed, all of the unit that it was given. Decides nothing else; what follows from the
events is `agent.computing`'s.
"""

from __future__ import annotations

from typing import ClassVar

from tesla_at_home.adapters import frames
from tesla_at_home.agent.events import (
    ChildReady,
    Event,
    StepDone,
    UnitDone,
    UnitFailed,
    UnitStarted,
)
from tesla_at_home.errors import TeslaAtHomeError
from tesla_at_home.ports import Job
from workunits.program import step_count
from workunits.values import LeaseId
from workunits.wire.limits import TEXT_CHARS


class Misspoken(TeslaAtHomeError):
    """The child said or left what no honest one does; it is ended and its unit has failed."""

    code: ClassVar[str] = "child_misspoke"


class Conversation:
    """About one job, from its frame `Run` to the last word."""

    def __init__(self, job: Job) -> None:
        self._lease = job.lease
        self._first = job.first_step
        self._steps = step_count(job.rows, job.program.rows_per_step)
        self._next: int | None = None  # the step to come; None: not ready yet
        self._is_over = False

    @property
    def unfinished(self) -> LeaseId | None:
        """The unit, until the last word about it."""
        return None if self._is_over else self._lease

    def take(self, frame: frames.AboutUnit) -> tuple[Event, ...]:
        """What a frame tells the agent.

        Raises:
            Misspoken: it does not follow from those before.
        """
        if self._is_over or frame.lease != self._lease:
            raise Misspoken("speaks of a unit that it was not given")
        match frame:
            case frames.Ready():
                return self._ready(frame)
            case frames.Stepped():
                return self._stepped(frame)
            case frames.Done():
                return self._done(frame)
            case frames.Failed():
                self._is_over = True
                return (UnitFailed(frame.lease, frame.code, _one_line(frame.detail)),)

    def _ready(self, frame: frames.Ready) -> tuple[Event, ...]:
        # It begins behind the steps that are there, or anew where they were computed otherwise.
        if self._next is not None or frame.first_step not in (0, self._first):
            raise Misspoken(f"is ready for step {frame.first_step} out of turn")
        self._next = frame.first_step
        return (
            ChildReady(frame.lease, frame.provider, frame.onnxruntime),
            UnitStarted(frame.lease, frame.first_step),
        )

    def _stepped(self, frame: frames.Stepped) -> tuple[Event, ...]:
        if frame.step != self._next or frame.step >= self._steps:
            raise Misspoken(f"says that step {frame.step} is done out of turn")
        self._next = frame.step + 1
        return (StepDone(frame.lease, frame.step, frame.took_ms),)

    def _done(self, frame: frames.Done) -> tuple[Event, ...]:
        if self._next != self._steps:
            raise Misspoken(f"says that it is done after {self._next or 0} of {self._steps} steps")
        self._is_over = True
        return (UnitDone(frame.lease, frame.output, frame.size),)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:TEXT_CHARS]
