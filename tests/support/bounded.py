"""Reading a hostile file in a process that may take little: `python -m tests.support.bounded WHAT`.

Prints a JSON object of what each file of `WHAT` (`models` or `data`) was refused with. The limits on
memory and processor time are set by the process on itself; past them it ends without its answer.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

# Python with numpy, onnx and pyarrow reserves most of a GiB before it reads anything.
MEMORY_BYTES: Final = 2 * 2**30
CPU_S: Final = 30


def refusals(what: str) -> dict[str, str]:
    """What each hostile file is refused with, read within the limits.

    Raises:
        AssertionError: the process did not live to answer.
    """
    done = subprocess.run(
        [sys.executable, "-m", __name__, what], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"ended with {done.returncode}: {done.stderr[-2000:]}"
    found: dict[str, str] = json.loads(done.stdout)
    return found


def _models() -> dict[str, str]:
    from tests.support.hostile_models import HOSTILE
    from workunits.errors import GraphRefused
    from workunits.graphs import vet

    said = {}
    for name, hostile in HOSTILE.items():
        try:
            vet(hostile.make(), name="hostile")
            said[name] = "taken"
        except GraphRefused as refused:
            said[name] = str(refused)
    return said


def _data() -> dict[str, str]:
    from tests.support.hostile_data import HOSTILE, read_all
    from workunits.errors import DataRefused

    said = {}
    for name, hostile in HOSTILE.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / hostile.file
            hostile.make(path)
            try:
                said[name] = f"taken: {read_all(path, hostile.specs)}"
            except DataRefused as refused:
                said[name] = str(refused).replace(folder, "")
    return said


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    print(json.dumps({"models": _models, "data": _data}[sys.argv[1]]()))


if __name__ == "__main__":
    main()
