"""Validation in the background: one block of units per round, as long as there are any."""

from __future__ import annotations

from server.services.validation import Validation
from workunits.values import Milliseconds


class Validate:
    def __init__(self, validation: Validation) -> None:
        self._validation = validation

    def run_once(self, now: Milliseconds) -> int:
        """How many units were looked at; 0: nothing is due."""
        return self._validation.check(now)
