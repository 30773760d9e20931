"""Server rows: work requests a second, and results a second through the whole loop."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Final

from bench.project import project, served
from bench.rows import Figure, Measure
from server.settings import DATABASE_FILE
from server.storage.database import SqliteDatabase

# Some five seconds of work at the target, so that check-points of the log fall inside.
RPC_VEHICLES: Final = 12_000
LOOP_VEHICLES: Final = 500
LOOP_UNITS: Final = 6_000
_LOAD_S: Final = 300
_SETTLE_S: Final = 120


def rpc_per_s() -> Figure:
    """One signed report in and one signed lease out, every commit on disk.

    All vehicles are one owner's, so that no unit gets its second result and nothing is validated
    meanwhile: that is the loop's row.
    """
    vehicles = RPC_VEHICLES
    with project(2 * vehicles, vehicles, owners=1) as folder, served(folder) as url:
        result = _load("rpc", url, vehicles)
    assert result["requests"] == result["leased"] == vehicles, result
    print(f"  p50 {result['p50_ms']:.1f} ms, p99 {result['p99_ms']:.1f} ms", file=sys.stderr)
    return Figure(result["per_s"], _rpc_floor())


def loop_per_s_1() -> Figure:
    """Results a second from the first request to the last verdict, one lease per request."""
    with (
        project(units=LOOP_UNITS, vehicles=LOOP_VEHICLES) as folder,
        served(folder) as url,
        SqliteDatabase(folder / DATABASE_FILE) as database,
    ):
        result = _load("loop", url, LOOP_VEHICLES)
        _until_settled(database)
        took_s = time.time() - result["began"]
        assert result["reported"] == 2 * LOOP_UNITS, result
    answered_s = result["ended"] - result["began"]
    print(f"  requests {answered_s:.2f} s, validated {took_s:.2f} s", file=sys.stderr)
    return Figure(2 * LOOP_UNITS / took_s, _rpc_floor())


def _until_settled(database: SqliteDatabase) -> None:
    until = time.monotonic() + _SETTLE_S
    while time.monotonic() < until:
        with database.reading() as storage:
            if storage.batches.list(1)[0].units_done == LOOP_UNITS:
                return
        time.sleep(0.02)
    raise RuntimeError("validation did not come to its end")


def _rpc_floor() -> float:
    """The same route, signatures and one row a request in a commit, without anything of ours."""
    with tempfile.TemporaryDirectory(prefix="bench") as name:
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.floor", name], stdout=subprocess.PIPE, text=True
        )
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            return _load("rpc", url, RPC_VEHICLES)["per_s"]
        finally:
            process.terminate()
            process.wait(_LOAD_S)


def _load(what: str, url: str, vehicles: int) -> Mapping[str, float]:
    command = [sys.executable, "-m", "bench.load", what, url, str(vehicles)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_LOAD_S, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    found: dict[str, float] = json.loads(done.stdout)
    return found


MEASURES: Final = (
    Measure("rpc_per_s", "1/s", 2_500, "higher", rpc_per_s),
    Measure("loop_per_s_1", "1/s", 1_500, "higher", loop_per_s_1),
)
