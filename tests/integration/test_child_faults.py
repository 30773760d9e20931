"""A computing process that goes wrong, as a real process: one clear event each, and the next unit runs."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
from pathlib import Path

import msgspec
import pytest

from tesla_at_home.adapters import child_process
from tesla_at_home.adapters.cell import Cell, file_bytes
from tesla_at_home.adapters.conversation import Misspoken
from tesla_at_home.adapters.runner import ChildRunner
from tesla_at_home.agent.events import ChildGone, ChildReady, StepDone, UnitDone, UnitFailed
from tests.integration.test_child_process import (
    ROWS,
    Posted,
    job_in,
    posted,
    runner,
    undisturbed,
)
from tests.support import models
from workunits.wire import tensors

__all__ = ["posted", "runner"]

WICKED = Path(__file__).parent.parent / "support" / "wicked"


@pytest.fixture
def fault(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("PYTHONPATH", str(WICKED))
    return monkeypatch


@pytest.mark.parametrize(
    ("name", "cause", "detail"),
    [
        ("crash", "crashed", "was killed by SIGSEGV"),
        ("abort", "crashed", "was killed by SIGABRT"),
        ("exit", "crashed", "ended with 3"),
        ("ended", "killed", "was killed by SIGTERM"),
        ("no_start", "not_started", "ended with 1"),
        ("too_large", "crashed", "ended with 4"),
    ],
)
def test_how_it_ended_is_told_apart(
    tmp_path: Path,
    runner: ChildRunner,
    posted: Posted,
    fault: pytest.MonkeyPatch,
    name: str,
    cause: str,
    detail: str,
) -> None:
    fault.setenv("PYTHONFAULT", name)
    runner.run(job_in(tmp_path, models.mlp()))
    gone = posted.next((ChildGone, UnitFailed))
    assert isinstance(gone, ChildGone)
    assert (gone.cause, gone.detail) == (cause, detail)


@pytest.mark.parametrize(
    ("name", "detail"),
    [
        ("garbage", "says a frame of 4294967295 bytes"),
        ("no_frame", "says what is no frame"),
        ("endless", "says twice that it has begun"),
        ("unasked", "speaks of a unit before it has begun"),
        ("long_words", "says what is no frame"),
        ("a_step_ahead", "is ready for step 5 out of turn"),
        ("out_of_turn", "says that step 1 is done out of turn"),
        ("twice", "says that step 0 is done out of turn"),
        ("a_step_more", "says that step 10 is done out of turn"),
        ("foreign", "speaks of a unit that it was not given"),
        ("done_at_once", "says that it is done after 0 of 10 steps"),
        ("no_output", "no output is there"),
        ("short_output", "an output of 5 bytes"),
        ("other_output", "an output of other names, types or shapes"),
        ("floods", "writes more than the unit can give"),
        ("floods_without_names", "writes more than the unit can give"),
        # One who may look into every process, as root may, sees what it is that is hidden.
        ("hides", "writes"),
    ],
)
def test_what_no_honest_one_says_fails_the_unit(
    tmp_path: Path,
    runner: ChildRunner,
    posted: Posted,
    fault: pytest.MonkeyPatch,
    name: str,
    detail: str,
) -> None:
    sample = models.mlp()
    fault.setenv("PYTHONFAULT", name)
    fault.setenv("PYTHONFAULT_BYTES", str(tensors.payload_bytes(sample.outputs, ROWS)))
    job = job_in(tmp_path, sample)
    runner.run(job)
    failed = posted.next((UnitFailed, ChildGone, UnitDone))
    assert isinstance(failed, UnitFailed)
    assert (failed.lease, failed.code) == (job.lease, Misspoken.code)
    assert detail in failed.detail
    assert not Path(job.output).exists()


def test_the_next_unit_is_computed(
    tmp_path: Path, runner: ChildRunner, posted: Posted, fault: pytest.MonkeyPatch
) -> None:
    for name in ("crash", "garbage"):
        fault.setenv("PYTHONFAULT", name)
        runner.run(job_in(tmp_path, models.mlp()))
        posted.next((ChildGone, UnitFailed))
    fault.delenv("PYTHONPATH")
    runner.run(job_in(tmp_path, models.mlp(), lease=2))
    assert isinstance(posted.next((UnitDone, ChildGone, UnitFailed)), UnitDone)


def test_more_memory_than_its_share_is_refused_in_one_line(
    tmp_path: Path, runner: ChildRunner, posted: Posted
) -> None:
    sample = models.memory_hog(7_500)
    job = job_in(tmp_path, sample)
    runner.run(msgspec.structs.replace(job, memory_bytes=64 * 2**20))
    failed = posted.next((UnitFailed, UnitDone, ChildGone))
    assert isinstance(failed, UnitFailed)
    assert failed.code == "out_of_memory"


@pytest.mark.parametrize(
    "error",
    [OSError(11, "Resource temporarily unavailable"), OSError(12, "Cannot allocate memory")],
)
def test_a_computer_that_cannot_fork_says_so(
    tmp_path: Path,
    runner: ChildRunner,
    posted: Posted,
    monkeypatch: pytest.MonkeyPatch,
    error: OSError,
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise error

    with monkeypatch.context() as patched:
        # The outer door: the kernel's own answer to a process too many.
        patched.setattr(subprocess, "Popen", refuse)
        runner.run(job_in(tmp_path, models.mlp()))
        gone = posted.next(ChildGone)
    assert isinstance(gone, ChildGone)
    assert (gone.cause, gone.detail) == ("not_started", f"cannot be started: {error}")
    assert list((tmp_path / "cells").iterdir()) == []
    runner.run(job_in(tmp_path, models.mlp()))
    posted.next(UnitDone)


def test_it_sees_the_files_of_its_unit_only(
    tmp_path: Path, runner: ChildRunner, posted: Posted
) -> None:
    (tmp_path / "key.pem").write_text("secret")
    runner.run(job_in(tmp_path, models.mlp(), lease=1))
    posted.next(UnitDone)
    job = job_in(tmp_path, models.mlp(), duty=1.0, lease=2)
    runner.run(job)
    posted.next(StepDone)
    (cell,) = (tmp_path / "cells").iterdir()
    seen = {path.name for path in cell.rglob("*") if path.is_file()}
    assert seen == {Path(job.model).name, "row.input", "2.steps"}
    runner.kill()
    runner.close()


def test_cells_of_a_killed_agent_are_removed(
    tmp_path: Path, runner: ChildRunner, posted: Posted
) -> None:
    left = tmp_path / "cells" / "old"
    left.mkdir(parents=True)
    (left / "model").write_bytes(b"x")
    runner.run(job_in(tmp_path, models.mlp()))
    posted.next(ChildReady)
    assert not left.exists()


# --- the cell alone -----------------------------------------------------------------------------


def cell_in(folder: Path) -> tuple[Cell, Path]:
    """A cell with a unit in it, and where its child would put the output."""
    job = job_in(folder, models.mlp())
    cell = Cell.make(job)
    return cell, Path(cell.admit(job).output)


def test_an_output_that_is_no_plain_file_is_not_taken(tmp_path: Path) -> None:
    sample = models.mlp()
    cell, output = cell_in(tmp_path)
    # Of another unit, and in itself quite right.
    other = tmp_path / "other.output"
    other.write_bytes(undisturbed(sample, job_in(tmp_path, sample)))
    size = other.stat().st_size
    output.symlink_to(other)
    with pytest.raises(Misspoken):
        cell.bring_out(size)
    output.unlink()
    os.mkfifo(output)
    with pytest.raises(Misspoken):
        cell.bring_out(size)
    output.unlink()
    output.write_bytes(other.read_bytes())
    cell.bring_out(size)
    assert (tmp_path / "1.output").read_bytes() == other.read_bytes()


def test_a_file_system_without_links_gives_it_the_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: object, target: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    job = job_in(tmp_path, models.mlp())
    cell = Cell.make(job)
    assert not cell.is_own
    assert cell.admit(job) == job
    assert (cell.reads, cell.writes) == ((str(tmp_path),), (str(tmp_path),))
    assert list((tmp_path / "cells").iterdir()) == []


def test_many_or_large_files_are_too_much(tmp_path: Path) -> None:
    cell, output = cell_in(tmp_path)
    assert not cell.is_overfull(os.getpid())
    job = job_in(tmp_path, models.mlp())
    with output.open("wb") as file:
        file.truncate(4 * file_bytes(job))
    assert cell.is_overfull(os.getpid())
    output.unlink()
    for number in range(20):
        (output.parent / str(number)).touch()
    assert cell.is_overfull(os.getpid())


def test_what_has_no_name_counts_too(tmp_path: Path) -> None:
    cell, output = cell_in(tmp_path)
    too_much = 4 * file_bytes(job_in(tmp_path, models.mlp()))
    with output.open("w+b") as file:
        file.truncate(too_much)
        # Opened twice, it is on the disk once.
        with output.open("rb"):
            output.unlink()
            assert too_much <= cell.nameless_bytes(os.getpid()) < 2 * too_much
        assert cell.is_overfull(os.getpid())
    assert not cell.is_overfull(os.getpid())


def test_what_is_mapped_without_a_name_counts_too(tmp_path: Path) -> None:
    cell, output = cell_in(tmp_path)
    output.write_bytes(b"x")
    with output.open("r+b") as file, mmap.mmap(file.fileno(), 1):
        assert not cell.is_overfull(os.getpid())
        output.unlink()
        # A byte of it: the folder and the open files would not tell.
        assert cell.is_overfull(os.getpid())
    assert not cell.is_overfull(os.getpid())


def test_signals_are_told_by_name() -> None:
    assert child_process._obituary(-signal.SIGBUS) == "was killed by SIGBUS"
    assert child_process._obituary(None) == "does not end"
    assert child_process._cause(0, True) == "killed"
    assert child_process._cause(None, True) == "crashed"
