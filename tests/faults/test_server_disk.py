"""The project on a disk that fails at each write, each flush and each name: nothing is lost or doubled.

The plays are `server_disk_play` and `project_disk_play`. Here each takes a share of the telling calls,
spread over the whole scene; `make soak` takes them all, at random, for as long as it is told to.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import pytest

from tests.faults import server_disk_play
from tests.support import disk_faults

pytestmark = disk_faults.needs_compiler

SERVER: Final = "tests.faults.server_disk_play"
PROJECT: Final = "tests.faults.project_disk_play"
SOAK_SECONDS: Final = float(os.environ.get("SOAK_SECONDS", "120"))
SOAK_SEED: Final = int(os.environ.get("SOAK_SEED", "0"))


def count(found: dict[str, object], what: str) -> int:
    number = found.get(what, 0)
    assert isinstance(number, int)
    return number


def test_a_server_that_lives_on_after_a_failed_call(tmp_path: Path) -> None:
    found = disk_faults.play(SERVER, str(tmp_path), "each,ONCE,0,16", "each,SHORT,3,32")
    assert count(found, "faults") > 20
    assert count(found, "outages") > 10


def test_a_server_that_dies_at_a_call(tmp_path: Path) -> None:
    found = disk_faults.play(SERVER, str(tmp_path), "each,GONE,5,16", "each,TORN,11,16")
    assert count(found, "faults") > 40
    assert count(found, "answers repeated") > 100


def test_a_power_cut_after_a_call(tmp_path: Path) -> None:
    found = disk_faults.play(SERVER, str(tmp_path), "cuts,1,10,1")
    assert count(found, "power cuts") > 20


def test_failed_calls_and_then_a_power_cut(tmp_path: Path) -> None:
    found = disk_faults.play(SERVER, str(tmp_path), "pairs,3,5")
    assert (count(found, "faults"), count(found, "power cuts")) == (9, 18)


def test_a_failed_flush_is_not_taken_for_done(tmp_path: Path) -> None:
    found = disk_faults.play(SERVER, str(tmp_path), "flushes,2,3")
    assert count(found, "power cuts") > 5


def test_a_disk_that_is_full_or_read_only_for_a_while(tmp_path: Path) -> None:
    found = disk_faults.play(SERVER, str(tmp_path), "refusals,1,4")
    assert count(found, "outages") > 10


@pytest.mark.parametrize(("what", "shares"), [("init", 16), ("publish", 6), ("metadata", 8)])
def test_a_command_that_is_cut_off_is_begun_again(tmp_path: Path, what: str, shares: int) -> None:
    found = disk_faults.play(PROJECT, what, str(tmp_path), "2", str(shares))
    assert count(found, "faults") > 10
    assert count(found, "power cuts") > 5


@pytest.mark.soak
def test_a_server_on_a_bad_disk_for_a_long_time() -> None:
    found = server_disk_play.run(SOAK_SECONDS, SOAK_SEED)
    print(found)
    assert found["faults"] + found["power cuts"] > 2 * SOAK_SECONDS
