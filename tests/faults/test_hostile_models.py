"""Models made by an enemy: refused in one line, within little memory and time, and nothing is kept."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from server.adapters.recompute import Recompute
from server.cli import run
from server.errors import Refused
from tests.support import bounded, models
from tests.support.hostile_models import HOSTILE
from tests.support.project_state import files, tables
from tests.support.publisher import Publisher, publisher
from workunits.wire import limits
from workunits.wire.messages import ModelFacts


@pytest.fixture(scope="module")
def said() -> dict[str, str]:
    return bounded.refusals("models")


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_a_hostile_model_is_refused_within_memory_and_time(name: str, said: dict[str, str]) -> None:
    line = said[name]
    assert HOSTILE[name].words in line
    assert line.isprintable()
    assert len(line) <= limits.TEXT_CHARS
    assert "; " in line, "a refusal ends with what to do"


# --- `model add` --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def founded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("founded") / "project"
    assert run(["--dir", str(folder), "init", "--name", "Test"]) == 0
    return folder


@pytest.fixture
def project(founded: Path, tmp_path: Path) -> Path:
    return shutil.copytree(founded, tmp_path / "project")


@dataclass(frozen=True)
class Refusal:
    code: int
    line: str


@pytest.fixture
def refusal(project: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Refusal]:
    """`model add` that fails: its code and its only line; nothing of the project has changed."""

    def add(file: Path, name: str = "model") -> Refusal:
        before = files(project), tables(project / "server.sqlite3")
        capsys.readouterr()
        code = run(
            ["--dir", str(project), "model", "add", str(file), "--name", name, "--public-data"]
        )
        out, err = capsys.readouterr()
        assert (files(project), tables(project / "server.sqlite3")) == before
        assert out == ""
        assert "Traceback" not in err
        return Refusal(code, err.strip())

    return add


def expect_one_line(found: Refusal, words: str) -> None:
    assert found.code == 1
    assert found.line.startswith("error: ")
    assert found.line.isprintable(), "one line, and nothing that steers a terminal"
    assert words in found.line


@pytest.mark.parametrize(
    "name",
    [
        "graphs nested 3,000 deep",
        "weights outside, in a loop",
        "a name that leads out",
        "a node that steers the terminal",
        "no weights of 2^62",
        "Expand to terabytes",
    ],
)
def test_a_hostile_model_is_not_added(
    name: str, refusal: Callable[..., Refusal], tmp_path: Path
) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(HOSTILE[name].make())
    expect_one_line(refusal(file), HOSTILE[name].words)


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_huge(path: Path) -> None:
    path.touch()
    os.truncate(path, limits.MODEL_BYTES + 1)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (make_pipe, "no ordinary file; copy the model into one first"),
        (lambda path: path.symlink_to("/dev/zero"), "no ordinary file"),
        (lambda path: path.symlink_to("/proc/self/mem"), "cannot be read: Input/output error"),
        (make_huge, "a model has at most"),
        (lambda path: path.touch(), "holds no ONNX graph; export the model again"),
    ],
    ids=["pipe", "endless device", "unreadable", "too large", "empty"],
)
def test_a_file_that_is_none_is_not_added(
    make: Callable[[Path], None], words: str, refusal: Callable[..., Refusal], tmp_path: Path
) -> None:
    make(tmp_path / "model.onnx")
    expect_one_line(refusal(tmp_path / "model.onnx"), words)


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), lambda path: path.symlink_to("none")])
def test_what_is_not_there_is_wrong_usage(
    make: Callable[[Path], None], refusal: Callable[..., Refusal], tmp_path: Path
) -> None:
    make(tmp_path / "model.onnx")
    found = refusal(tmp_path / "model.onnx")
    assert found.code == 2
    assert "model.onnx" in found.line


@pytest.mark.parametrize("name", ["../x", "a/b", "\x1b[2J", "..", "x" * 100, "", "X", "a\n"])
def test_a_name_that_is_none_is_not_taken(
    name: str, refusal: Callable[..., Refusal], tmp_path: Path
) -> None:
    file = models.mlp().write(tmp_path / "model.onnx")
    expect_one_line(refusal(file, name), "use small letters")


# --- files that change while they are read ------------------------------------------------------


@dataclass(frozen=True)
class Meddled(Recompute):
    """Vets for real, while somebody writes to the file."""

    meddle: Callable[[Path], object] = lambda path: None

    def vet(self, model: Path, *, name: str) -> ModelFacts:
        found = super().vet(model, name=name)
        self.meddle(model)
        return found


def with_last_byte_changed(path: Path) -> None:
    raw = path.read_bytes()
    path.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Publisher]:
    (tmp_path / "site").mkdir()
    with publisher(tmp_path / "site") as found:
        yield found


@pytest.mark.parametrize(
    "meddle",
    [with_last_byte_changed, lambda path: path.write_bytes(b""), lambda path: path.unlink()],
    ids=["another of the same size", "emptied", "removed"],
)
def test_what_is_published_is_what_was_vetted(
    site: Publisher, tmp_path: Path, meddle: Callable[[Path], object]
) -> None:
    file = models.mlp().write(tmp_path / "model.onnx")
    before = files(site.folder), tables(site.folder / "server.sqlite3")
    service = replace(site.models, recompute=Meddled(meddle=meddle))
    with pytest.raises(Refused, match=r"changed while it was read|cannot be read"):
        service.add(file, "model", None)
    assert (files(site.folder), tables(site.folder / "server.sqlite3")) == before
