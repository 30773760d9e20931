"""What a measurement is, and how its result is written down.

A floor is what the machine itself takes for the same thing without our code; a figure that is far
from its floor is ours to mend, one that is near it is the machine's.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

LATEST: Final = Path(__file__).with_name("latest.json")


@dataclass(frozen=True, slots=True)
class Figure:
    """One number, and the same for the floor it is compared with."""

    value: float
    floor: float | None = None


@dataclass(frozen=True, slots=True)
class Measure:
    """What is measured, and when it is good enough."""

    name: str
    unit: str
    target: float
    better: Literal["higher", "lower"]
    run: Callable[[], Figure]

    def holds(self, value: float) -> bool:
        """Whether `value` keeps to the target."""
        return value >= self.target if self.better == "higher" else value <= self.target


@dataclass(frozen=True, slots=True)
class Row:
    """One line of `bench/latest.json`."""

    name: str
    value: float
    unit: str
    target: float
    floor: float | None
    holds: bool
    machine: str
    at: str


def measured(measure: Measure, figure: Figure) -> Row:
    """The row of a figure, as of now and here."""
    return Row(
        name=measure.name,
        value=_short(figure.value),
        unit=measure.unit,
        target=measure.target,
        floor=None if figure.floor is None else _short(figure.floor),
        holds=measure.holds(figure.value),
        machine=machine(),
        at=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
    )


def machine() -> str:
    """What it was measured on: processor, cores we may use, kernel, Python."""
    cores = len(os.sched_getaffinity(0))
    return f"{_processor()}, {cores} cores, Linux {platform.release()}, Python {platform.python_version()}"


def write(rows: Iterable[Row], path: Path = LATEST) -> None:
    """Put the rows into the file; what was not measured this time keeps its last figure."""
    kept = {row["name"]: row for row in _read(path)}
    kept.update({row.name: asdict(row) for row in rows})
    path.write_text(json.dumps(list(kept.values()), indent=2) + "\n")


def _read(path: Path) -> list[dict[str, object]]:
    if not path.exists():
        return []
    found = json.loads(path.read_text())
    assert isinstance(found, list)
    return found


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _short(value: float) -> float:
    """Four digits: what is behind them is noise."""
    return float(f"{value:.4g}")
