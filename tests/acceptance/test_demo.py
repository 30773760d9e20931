"""`make demo`, as a stranger runs it: real processes, real data, and every line it promises."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest


@pytest.mark.timeout(300)
def test_the_demo_shows_what_it_promises(tmp_path: Path) -> None:
    # Its folder is made below TMPDIR; everything but the answer is gone afterwards.
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    environment.pop("KEEP", None)
    done = subprocess.run(
        [sys.executable, "-m", "server.cli", "demo"],
        capture_output=True,
        text=True,
        timeout=280,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout
    valid = re.search(r"^units valid (\d+)/(\d+)$", said, re.MULTILINE)
    assert valid is not None
    assert valid[1] == valid[2] == "20"
    assert re.search(r"^accuracy 0\.9\d\d\b", said, re.MULTILINE)
    for counted in ("false results caught", "interrupted units resumed"):
        found = re.search(rf"^{counted} (\d+)$", said, re.MULTILINE)
        assert found is not None, said
        assert int(found[1]) >= 1
    credited = re.findall(r"^credit (\S+) (.+)$", said, re.MULTILINE)
    assert len(credited) == 6
    assert dict(credited)["too-good-to-be-true"] == "0"
    where = re.search(r"^answer (.+)$", said, re.MULTILINE)
    assert where is not None
    answer = np.load(where[1])
    assert len(answer["label"]) == 1797
    assert not answer["row_status"].any()
    assert [entry.name for entry in next(tmp_path.iterdir()).iterdir()] == ["digits-answer.npz"]
