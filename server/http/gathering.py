"""Many questions, one transaction: what arrives while the last commit runs is answered by the next.

Decides when a gathering begins (as soon as the writer is free, there is no fixed wait), who suffers
when one of them cannot be answered (only the guilty one) and when no more are taken in. What an
answer is, and what one transaction does, is decided by the `answer_all` that is given. Questions
are put by one event loop and answered by one thread, which is the only one that writes.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from server.errors import Busy

Q = TypeVar("Q")
A = TypeVar("A")

# Half a second of work at 2,500 questions a second: whoever waits longer is better off asking again.
MOST_WAITING: Final = 1024
# One transaction stays well under 100 ms, so that local commands get their turn at the database.
MOST_TOGETHER: Final = 128


@dataclass(slots=True)
class _Asked(Generic[Q, A]):
    question: Q
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[A]


@dataclass(slots=True)
class _Outcome(Generic[A]):
    """One delivery to one asker: an answer or the reason why there is none."""

    future: asyncio.Future[A]
    answers: tuple[A, ...] = ()
    error: Exception | None = None


@dataclass(slots=True)
class Tally:
    """How the gathering has gone since the start; read by the status page."""

    gatherings: int = 0
    questions: int = 0
    repeated: int = 0
    turned_away: int = 0


class Gathering(Generic[Q, A]):
    """Puts questions together for `answer_all`, which is one transaction and all or nothing."""

    def __init__(
        self,
        answer_all: Callable[[Sequence[Q]], Sequence[A]],
        *,
        after: Callable[[Sequence[Q]], None] = lambda questions: None,
        most_waiting: int = MOST_WAITING,
        most_together: int = MOST_TOGETHER,
    ) -> None:
        """`after` is told in the writer's thread what was committed; it must be quick."""
        self._answer_all = answer_all
        self._after = after
        self._most_waiting = most_waiting
        self._most_together = most_together
        self._waiting: list[_Asked[Q, A]] = []
        self._is_closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._write, name="gathering", daemon=True)
        self.tally = Tally()

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def refuse_more(self) -> None:
        """From now on everybody who asks is told that it is busy."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()

    def close(self) -> None:
        """Take no more, answer what was taken, and return when that is committed."""
        self.refuse_more()
        if self._thread.ident is not None:
            self._thread.join()

    async def ask(self, question: Q) -> A:
        """The answer, after it is durable.

        Raises:
            Busy: too many wait, or the server stops; nothing was changed.
            Exception: whatever `answer_all` raised about this question alone.
        """
        loop = asyncio.get_running_loop()
        asked: _Asked[Q, A] = _Asked(question, loop, loop.create_future())
        self._put(asked)
        return await asked.answer

    def _put(self, asked: _Asked[Q, A]) -> None:
        with self._changed:
            if self._is_closing:
                raise Busy("the server is stopping; ask again in a moment")
            if len(self._waiting) >= self._most_waiting:
                self.tally.turned_away += 1
                raise Busy("more arrives than can be stored at present; ask again in a moment")
            self._waiting.append(asked)
            self._changed.notify()

    def _write(self) -> None:
        while taken := self._take():
            outcomes = self._answer(taken)
            # One wake-up of the loop per gathering, not per answer.
            taken[0].loop.call_soon_threadsafe(_deliver, outcomes)

    def _take(self) -> list[_Asked[Q, A]]:
        """All that has arrived, waiting for the first; empty when there will be no more."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closing)
            taken = self._waiting[: self._most_together]
            del self._waiting[: self._most_together]
            return taken

    def _answer(self, taken: list[_Asked[Q, A]]) -> list[_Outcome[A]]:
        self.tally.gatherings += 1
        self.tally.questions += len(taken)
        together = self._try(taken)
        if together is not None:
            return together
        if len(taken) > 1:
            self.tally.repeated += len(taken)
        return [self._alone(asked) for asked in taken]

    def _try(self, taken: list[_Asked[Q, A]]) -> list[_Outcome[A]] | None:
        """The answers to all, or None if they must be repeated one by one."""
        if len(taken) == 1:
            return None
        try:
            answers = self._commit([asked.question for asked in taken])
        except Exception:
            # Whose fault it was shows when each is asked alone; there it is told to its asker.
            return None
        return [
            _Outcome(asked.answer, (answer,)) for asked, answer in zip(taken, answers, strict=True)
        ]

    def _alone(self, asked: _Asked[Q, A]) -> _Outcome[A]:
        try:
            return _Outcome(asked.answer, tuple(self._commit([asked.question])))
        except Exception as error:
            return _Outcome(asked.answer, error=error)

    def _commit(self, questions: Sequence[Q]) -> Sequence[A]:
        answers = self._answer_all(questions)
        self._after(questions)
        return answers


def _deliver(outcomes: list[_Outcome[A]]) -> None:
    """In the loop's thread; whoever has gone in the meantime asks again and gets the same answer."""
    for outcome in outcomes:
        if outcome.future.done():
            continue
        if outcome.error is not None:
            outcome.future.set_exception(outcome.error)
        else:
            outcome.future.set_result(outcome.answers[0])
