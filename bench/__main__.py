"""`python -m bench [name ...]`: measure, print a table, write `bench/latest.json`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from pkgutil import iter_modules

import bench
from bench.rows import Measure, Row, measured, write


def main(names: Sequence[str]) -> int:
    """Measure `names`, or everything; 2 when a name is unknown. A missed target is printed as such."""
    measures = {measure.name: measure for measure in _measures()}
    if unknown := [name for name in names if name not in measures]:
        print(f"no such row: {', '.join(unknown)}; there are: {', '.join(measures)}")
        return 2
    rows = [_run(measures[name]) for name in names or measures]
    write(rows)
    _print(rows)
    return 0


def _measures() -> Iterator[Measure]:
    """What the modules `bench.*_rows` offer as `MEASURES`."""
    for module in iter_modules(bench.__path__):
        if module.name.endswith("_rows"):
            measures: tuple[Measure, ...] = import_module(f"bench.{module.name}").MEASURES
            yield from measures


def _run(measure: Measure) -> Row:
    print(f"measuring {measure.name} ...", file=sys.stderr, flush=True)
    return measured(measure, measure.run())


def _print(rows: Sequence[Row]) -> None:
    head = ("name", "value", "unit", "target", "floor", "holds")
    lines = [head, *(_cells(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    for line in lines:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        )


def _cells(row: Row) -> tuple[str, ...]:
    floor = "-" if row.floor is None else f"{row.floor:g}"
    holds = "yes" if row.holds else "NO"
    return (row.name, f"{row.value:g}", row.unit, f"{row.target:g}", floor, holds)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
