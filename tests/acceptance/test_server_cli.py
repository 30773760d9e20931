"""`tesla-at-home-server` as scripts and people run it: subprocesses, exit codes, one-line errors."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from server.cli_project import opened
from tests.support import models
from workunits import arrays
from workunits.trust import digests


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def answer(self) -> object:
        return json.loads(self.out)

    @property
    def fields(self) -> dict[str, object]:
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found


@dataclass(frozen=True)
class Server:
    """A project's directory and the command beside it."""

    folder: Path

    def __call__(self, *arguments: str | Path, **environment: str) -> Ran:
        done = subprocess.run(
            self.command(*arguments),
            env=self.environment(**environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert "Traceback" not in done.stderr or environment
        return Ran(done.returncode, done.stdout, done.stderr)

    def command(self, *arguments: str | Path) -> list[str]:
        return [sys.executable, "-m", "server.cli", *map(str, arguments)]

    def environment(self, **more: str) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("TESLA_AT_HOME")}
        path = os.pathsep.join(entry for entry in sys.path if entry)
        project = {"TESLA_AT_HOME_SERVER_DIR": str(self.folder), "PYTHONPATH": path}
        return kept | project | {"COLUMNS": "200"} | more


@pytest.fixture(scope="module")
def founded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new project, to be copied."""
    made = Server(tmp_path_factory.mktemp("founded") / "project")
    assert made("init", "--name", "Test").code == 0
    return made.folder


@pytest.fixture(scope="module")
def with_model(founded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with model `mlp`, to be copied with its rows."""
    folder = tmp_path_factory.mktemp("with_model")
    made = Server(folder / "project")
    shutil.copytree(founded, made.folder)
    sample = models.mlp()
    sample.write(folder / "mlp.onnx")
    np.savez(folder / "rows.npz", **sample.draw(40))  # type: ignore[arg-type]
    added = made("model", "add", folder / "mlp.onnx", "--name", "mlp", "--public-data")
    assert added.code == 0, added.err
    return folder


@pytest.fixture
def server(founded: Path, tmp_path: Path) -> Server:
    return Server(shutil.copytree(founded, tmp_path / "project"))


@pytest.fixture
def published(with_model: Path, tmp_path: Path) -> Server:
    """A server with model `mlp` and its rows in `rows.npz`."""
    shutil.copytree(with_model, tmp_path, dirs_exist_ok=True)
    return Server(tmp_path / "project")


def submit(server: Server, *more: str) -> str:
    rows = server.folder.parent / "rows.npz"
    ran = server("batch", "submit", "--model", "mlp", "--input", rows, "--public-data",
                 "--rows-per-unit", "20", "--json", *more)  # fmt: skip
    assert ran.code == 0, ran.err
    return str(ran.fields["id"])


def settle(server: Server, batch_id: str, state: str, *, failing: bool) -> None:
    """End a batch as validation would: the first unit accepted, the second accepted or given up."""
    from server.domain.work import UnitChange

    with opened(server.folder) as project, project.database.transaction() as storage:
        (batch,) = storage.batches.find(batch_id)
        outputs: arrays.Arrays = {
            "scores": np.ones((20, 4), np.float32),
            "label": np.zeros(20, np.int64),
        }
        raw = arrays.to_payload(outputs)
        storage.payloads.add({digests.of_tensors(raw): raw})
        stories = [storage.units.story(batch.id, index) for index in range(2)]
        first, second = (story.unit.id for story in stories if story is not None)
        done = [UnitChange(first, "open", "done", output=digests.of_tensors(raw))]
        if failing:
            done.append(UnitChange(second, "open", "failed", failure="too_many_errors"))
        else:
            done.append(UnitChange(second, "open", "done", output=digests.of_tensors(raw)))
        storage.units.change(done)
        storage.batches.count(batch.id, 1 if failing else 2, int(failing), 20 * failing)
        storage.batches.end(batch.id, state, project.clock.now_ms())


def one_error_line(ran: Ran) -> str:
    lines = ran.err.strip().splitlines()
    assert len(lines) == 1, ran.err
    assert lines[0].startswith("error: ")
    assert ran.code == 1
    return lines[0]


# --- the program --------------------------------------------------------------------------------


def test_help_and_version_load_nothing_heavy(server: Server) -> None:
    heavy = ("numpy", "onnx", "onnxruntime", "pyarrow", "sqlalchemy", "litestar", "rich")
    code = (
        "import sys; from server.cli import run; assert run(['--help']) == 0; "
        f"print([m for m in {heavy!r} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=server.environment(), capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "[]"
    assert server("--version").out.startswith("tesla-at-home-server ")


def test_every_command_explains_itself(server: Server) -> None:
    listed = server("--help").out
    for name in ("init", "serve", "model", "batch", "unit", "vehicle", "owner", "demo", "doctor"):
        assert re.search(rf"^  {name} ", listed, re.MULTILINE)


@pytest.mark.parametrize(
    "arguments",
    [
        ("purge", "--all"),
        ("simulate", "trust"),
        ("owner", "ban", "x"),
        ("token", "create"),
        ("keys", "rotate", "--now"),
        ("keys",),
        ("token",),
        ("simulate",),
        ("serve", "--database", "postgresql://x"),
        ("serve", "--blobs", "s3://x"),
    ],
)
def test_what_comes_later_says_so(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    assert "not available yet" in one_error_line(Server(tmp_path)(*arguments))


def test_roles_other_than_all_are_a_usage_error_on_sqlite(server: Server) -> None:
    for role in ("api", "publisher", "worker"):
        assert server("serve", "--role", role).code == 2


@pytest.mark.parametrize(
    "arguments",
    [("batch", "submit"), ("nonsense",), ("model", "add", "/does/not/exist", "--name", "a")],
)
def test_wrong_usage_is_2(server: Server, arguments: tuple[str, ...]) -> None:
    ran = server(*arguments)
    assert ran.code == 2
    assert "Error:" in ran.err


def test_a_directory_without_a_project_is_told_how_to_get_one(tmp_path: Path) -> None:
    for command in (("status",), ("batch", "list"), ("serve",), ("migrate",)):
        assert "init" in one_error_line(Server(tmp_path / "none")(*command))


def test_a_fault_is_one_line_and_its_trace_on_request(server: Server) -> None:
    (server.folder / "metadata" / "timestamp.json").write_text("{}")
    assert "damaged" in one_error_line(server("status"))
    assert "Traceback" in server("status", TESLA_AT_HOME_DEBUG="1").err


def test_a_missing_extra_is_named(server: Server) -> None:
    code = (
        "import sys; sys.modules['sqlalchemy'] = None; "
        "from server.cli import run; sys.exit(run(['batch', 'list']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=server.environment(), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "pip install 'tesla-at-home[server]'" in done.stderr


# --- init ---------------------------------------------------------------------------------------


def test_init_makes_a_private_directory_and_only_once(tmp_path: Path) -> None:
    server = Server(tmp_path / "a")
    first = server("init", "--name", "Stars", "--sign-up", "invite")
    assert first.code == 0
    found = re.search(r"fingerprint +((?:[0-9a-f]{4} ?){16})", first.out)
    assert found is not None
    assert server.folder.stat().st_mode & 0o777 == 0o700
    for key in (server.folder / "keys").iterdir():
        assert key.stat().st_mode & 0o777 == 0o600

    before = {path: path.read_bytes() for path in server.folder.rglob("*.pem")}
    second = server("init", "--name", "Other")
    assert (second.code, "nothing was changed" in second.out) == (0, True)
    assert {path: path.read_bytes() for path in server.folder.rglob("*.pem")} == before

    status = server("status", "--json").fields
    assert (status["name"], status["sign_up"]) == ("Stars", "invite")
    assert status["fingerprint"] == found[1].replace(" ", "").strip()


def test_init_leaves_a_folder_with_other_things_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    assert "thesis.txt" in one_error_line(Server(tmp_path)("init"))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    (tmp_path / "thesis.txt").rename(tmp_path / "keys")  # as of an init that was cut off
    (tmp_path / "keys").unlink()
    (tmp_path / "keys").mkdir()
    assert Server(tmp_path)("init").code == 0


def test_an_estimate_is_in_words(published: Server, tmp_path: Path) -> None:
    asked = ("batch", "estimate", "--model", "mlp", "--input", tmp_path / "rows.npz")
    ran = published(*asked, "--rows-per-unit", "20", "--quorum", "3", "--step", "30")
    assert "3 times a unit, 6 in all" in ran.out
    assert "--step 30" in ran.err
    assert "the model was not run" in ran.err
    assert "once a unit, 1 in all" in published(*asked, "--quorum", "1").out


def test_vehicles_never_ask_without_a_pause(server: Server) -> None:
    ran = server("serve", "--no-work-wait", "0s")
    assert (ran.code, "'--no-work-wait'" in ran.err) == (2, True)


def test_migrate_changes_nothing_that_is_up_to_date(server: Server) -> None:
    ran = server("migrate")
    assert (ran.code, "nothing was changed" in ran.out) == (0, True)


def test_doctor_finds_what_is_wrong(server: Server) -> None:
    assert server("doctor").code == 0
    (server.folder / "keys" / "batch.pem").chmod(0o644)
    ran = server("doctor")
    assert ran.code == 1
    assert "chmod 600 batch.pem" in ran.out


def test_doctor_names_a_batch_whose_blobs_are_damaged(published: Server, tmp_path: Path) -> None:
    submit(published)
    assert published("doctor").code == 0
    [tree] = (
        found for found in (published.folder / "blobs" / "trees").rglob("*") if found.is_file()
    )
    tree.write_bytes(tree.read_bytes()[:-1])
    ran = published("doctor")
    assert ran.code == 1
    assert f"batch {tree.name[:12]}" in ran.out
    assert "backup" in ran.out


# --- models and batches -------------------------------------------------------------------------


def test_nothing_is_handed_out_without_a_word(server: Server, tmp_path: Path) -> None:
    models.mlp().write(tmp_path / "mlp.onnx")
    ran = server("model", "add", tmp_path / "mlp.onnx", "--name", "mlp")
    assert "--public-data" in one_error_line(ran)
    assert server("model", "list", "--json").answer == []


def test_the_first_batch_asks_and_later_ones_do_not(published: Server, tmp_path: Path) -> None:
    plain = ("batch", "submit", "--model", "mlp", "--input", tmp_path / "rows.npz")
    assert "--public-data" in one_error_line(published(*plain))
    submit(published)
    assert published(*plain).code == 0


def test_a_model_is_listed_shown_and_retired(published: Server) -> None:
    (listed,) = json.loads(published("model", "list", "--json").out)
    assert (listed["name"], listed["state"]) == ("mlp", "active")
    assert "scores float32 [rows, 4]" in published("model", "show", "mlp").out
    assert published("model", "retire", "mlp").code == 0
    assert "retired" in one_error_line(published("model", "retire", "mlp"))
    assert "no model called x" in one_error_line(published("model", "show", "x"))


def test_a_model_without_floats_is_one_of_integers(server: Server, tmp_path: Path) -> None:
    models.integers().write(tmp_path / "whole.onnx")
    ran = server("model", "add", tmp_path / "whole.onnx", "--name", "whole", "--public-data")
    assert (ran.code, ", integers" in ran.out) == (0, True)


def test_a_batch_from_submission_to_cancellation(published: Server, tmp_path: Path) -> None:
    batch = submit(published)
    shown = published("batch", "show", batch[:8], "--json").fields
    assert (shown["id"], shown["state"], shown["units"]) == (batch, "running", 2)
    assert "waits for a car" in published("batch", "show", batch).out
    output = tmp_path / "answer.npz"
    ran = published("batch", "results", batch, "--output", output)
    assert "still running" in one_error_line(ran)
    assert published("batch", "cancel", batch).code == 0
    assert "not running any more" in one_error_line(published("batch", "cancel", batch))
    ran = published("batch", "results", batch, "--output", output, "--json")
    assert ran.fields["row_status"] == {"cancelled": 40}
    assert "no row has an answer" in ran.err
    watched = published("batch", "watch", batch)
    assert watched.code == 1
    assert "cancelled" in one_error_line(watched)


@pytest.mark.parametrize(("failing", "code"), [(False, 0), (True, 3)])
def test_watching_tells_the_end(published: Server, failing: bool, code: int) -> None:
    batch = submit(published)
    settle(published, batch, "completed", failing=failing)
    ran = published("batch", "watch", batch)
    assert ran.code == code
    assert f"{1 if failing else 2}/2 units accepted" in ran.out


def test_an_answer_counts_classes_and_failed_rows(published: Server, tmp_path: Path) -> None:
    names = tmp_path / "classes.txt"
    names.write_text("red\ngreen\nblue\nblack\n")
    batch = submit(published, "--kind", "classify", "--classes", str(names), "--top", "2")
    settle(published, batch, "completed", failing=True)
    output = tmp_path / "answer.jsonl"
    made = published("batch", "results", batch, "--output", output, "--json").fields
    assert (made["rows"], made["rows_failed"]) == (40, 20)
    assert made["classes"] == {"red": 20, "green": 0, "blue": 0, "black": 0}
    numbered = published("batch", "results", batch, "--output", tmp_path / "answer.npz")
    assert "from 0 in the order below" in numbered.out
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [line["row_status"] for line in lines] == ["ok"] * 20 + ["unit_failed"] * 20
    assert lines[0]["top_labels"] == ["red", "green"]


def test_a_units_story_is_told(published: Server) -> None:
    batch = submit(published)
    ran = published("unit", "show", f"{batch[:8]}/1")
    assert f"Unit 1 of batch {batch}: rows 20 to 39." in ran.out
    story = published("unit", "show", f"{batch}/1", "--json").fields
    assert story["state"] == "open"
    assert "2 units" in one_error_line(published("unit", "show", f"{batch}/2"))
    assert "BATCH/INDEX" in one_error_line(published("unit", "show", batch))


def test_quorum_1_says_that_nothing_is_cross_checked(published: Server, tmp_path: Path) -> None:
    ran = published("batch", "submit", "--model", "mlp", "--input", tmp_path / "rows.npz",
                    "--public-data", "--quorum", "1")  # fmt: skip
    assert "nothing is cross-checked" in ran.err
    assert ran.code == 0


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        (("--assurance", "audited"), 1, "not available yet"),
        (("--assurance", "exact"), 1, "not available yet"),
        (("--deadline", "soon"), 2, "14d"),
        (("--deadline", "soon"), 2, "'--deadline'"),
        (("--top", "3"), 2, "--kind classify"),
        (("--kind", "classify", "--top", "9"), 1, "--top 9"),
        (("--quorum", "99"), 1, "--quorum 99"),
        (("--quorum", "0"), 2, "--quorum"),
        (("--step", "0"), 2, "--step"),
    ],
)
def test_wishes_that_cannot_be(
    published: Server, tmp_path: Path, more: tuple[str, ...], code: int, words: str
) -> None:
    rows = tmp_path / "rows.npz"
    ran = published("batch", "submit", "--model", "mlp", "--input", rows, "--public-data", *more)
    assert ran.code == code
    assert words in ran.err
    assert published("batch", "list", "--json").answer == []


def test_ctrl_c_while_waiting_is_130(published: Server) -> None:
    batch = submit(published)
    with subprocess.Popen(
        published.command("batch", "watch", batch),
        env=published.environment(PYTHONUNBUFFERED="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as watching:
        assert watching.stdout is not None
        assert "0/2 units accepted" in watching.stdout.readline()
        watching.send_signal(signal.SIGINT)
        _, err = watching.communicate(timeout=30)
    assert watching.returncode == 130
    assert "Traceback" not in err


def test_empty_lists_say_what_to_do_next(server: Server) -> None:
    assert "model add" in server("model", "list").out
    assert "batch submit" in server("batch", "list").out
    assert "join" in server("vehicle", "list").out
    assert "join" in server("owner", "list").out
    for name in ("vehicle", "owner"):
        assert server(name, "list", "--json").answer == []
        assert f"no {name} x" in one_error_line(server(name, "show", "x"))


def test_an_invitation_is_a_code_shown_once(server: Server) -> None:
    first = server("invite", "create")
    assert re.fullmatch(r"[0-9a-f]{32}\n", first.out)
    assert server("invite", "create", "--json").fields["invite"] != first.out.strip()
