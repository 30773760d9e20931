"""Ends with 1 when coverage falls below the floors: `python -m tests.coverage_floor` after a run.

The pure packages decide everything, so each of their branches is exercised; the rest may have
branches that only a broken disk takes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PURE = (
    "workunits/wire/",
    "workunits/trust/",
    "workunits/program.py",
    "tesla_at_home/policy/",
    "tesla_at_home/agent/",
    "server/domain/",
)
PURE_FLOOR = 100.0
WHOLE_FLOOR = 90.0


def report() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        to = Path(folder) / "coverage.json"
        command = [sys.executable, "-m", "coverage", "json", "-q", "-o", str(to)]
        subprocess.run(command, check=True, timeout=120)
        found: dict[str, Any] = json.loads(to.read_text())
        return found


def failings(found: dict[str, Any]) -> list[str]:
    whole = found["totals"]["percent_covered"]
    lines = []
    if whole < WHOLE_FLOOR:
        lines.append(f"everything: {whole:.1f} %, floor {WHOLE_FLOOR:.0f} %")
    for name, facts in sorted(found["files"].items()):
        covered = facts["summary"]["percent_covered"]
        if name.startswith(PURE) and covered < PURE_FLOOR:
            missing = facts["missing_lines"] or facts["missing_branches"]
            lines.append(f"{name}: {covered:.1f} %, floor 100 %; not taken: {missing}")
    return lines


def main() -> int:
    lines = failings(report())
    print("\n".join(["coverage is below its floor:", *lines]) if lines else "coverage holds")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
