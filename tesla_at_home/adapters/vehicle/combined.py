"""Several sources as one. What they disagree about is judged by `policy.signals`, not here."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tesla_at_home.policy.signals import Heard
from tesla_at_home.ports import VehicleSource


class CombinedSources:
    """The port `VehicleSource` over any number of them, also none."""

    def __init__(self, sources: Sequence[VehicleSource]) -> None:
        self._sources = tuple(sources)

    @property
    def calm_s(self) -> float | None:
        """The longest that any of them asks for: a script is not to make a real car hasty."""
        asked = [source.calm_s for source in self._sources]
        if not asked or any(calm_s is None for calm_s in asked):
            return None
        return max(calm_s for calm_s in asked if calm_s is not None)

    def start(self, post: Callable[[Heard], None]) -> None:
        for source in self._sources:
            source.start(post)

    def stop(self) -> None:
        for source in self._sources:
            source.stop()

    def count(self, steps: int, units: int) -> None:
        for source in self._sources:
            source.count(steps, units)
