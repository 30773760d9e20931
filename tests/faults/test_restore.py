"""What can be wrong with a backup, and a restore that ends at any moment: one clear line, nothing lost."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import sqlite3
import tarfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from server import cli, cli_copies, cli_project
from server.adapters import archive, serving, settings_file, swapping
from server.adapters.archive import ArchiveWriter
from server.adapters.clock import SystemClock
from server.cli_doctor import examine
from server.errors import Conflict, Outage, Refused
from server.settings import DATABASE_FILE, ProjectSettings
from workunits.values import Milliseconds


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a project `old`, one `other`, and the backup `b.tar` of the first."""
    folder = tmp_path_factory.mktemp("kept")
    for name in ("old", "other"):
        cli_project.found(folder / name, ProjectSettings(name))
    with cli_project.opened(folder / "old") as project:
        for index in range(3):
            project.blobs.put(f"{index:064x}", bytes([index]) * 700 * (index + 1))
        project.blobs.put(f"outputs/{9:064x}", b"")
    back_up(folder / "old", folder / "b.tar")
    return folder


def back_up(project: Path, file: Path, *, with_keys: bool = True) -> cli_copies.Copied:
    with cli_project.opened(project) as opened:
        return cli_copies.back_up(opened, file, replaces=False, with_keys=with_keys)


def restore(folder: Path, file: Path, later_ms: int = 0) -> cli_copies.Restored:
    with file.open("rb") as source:
        now = Milliseconds(SystemClock().now_ms() + later_ms)
        return cli_copies.restore(folder, source, now)


def epoch(folder: Path) -> int:
    with closing(sqlite3.connect(folder / DATABASE_FILE)) as connection:
        return int(connection.execute("SELECT value FROM meta WHERE key = 'epoch'").fetchone()[0])


def versions(folder: Path) -> list[int]:
    with cli_project.opened(folder) as project:
        return [state.version for state in project.metadata.roles()]


def files(folder: Path) -> dict[str, bytes]:
    """Everything but what a lock or an open database leaves."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != serving.LOCK
    }


# --- what comes back ---------------------------------------------------------------------------------


def test_everything_comes_back_and_is_ahead_of_all_that_was_said(
    kept: Path, tmp_path: Path
) -> None:
    began_s = SystemClock().now_ms() // 1000
    restored = restore(tmp_path / "new", kept / "b.tar")
    assert (restored.absent_keys, restored.behind, restored.aside) == ((), (), None)
    for folder in ("blobs", "keys"):
        assert files(tmp_path / "new" / folder) == files(kept / "old" / folder)
    assert epoch(tmp_path / "new") >= began_s > epoch(kept / "old")
    root, *others = versions(tmp_path / "new")
    assert root == 1
    assert all(version >= began_s for version in others)
    assert all(finding.is_well for finding in examine(tmp_path / "new"))
    assert (kept / "b.tar").stat().st_mode & 0o077 == 0


def test_the_same_backup_again_is_ahead_of_what_was_said_after_the_first_time(
    kept: Path, tmp_path: Path
) -> None:
    restore(tmp_path / "new", kept / "b.tar")
    with cli_project.opened(tmp_path / "new") as project:
        for days in range(1, 50):
            project.metadata.refresh(Milliseconds(project.clock.now_ms() + days * 86_400_000))
    said = [epoch(tmp_path / "new"), *versions(tmp_path / "new")[1:]]
    restore(tmp_path / "again", kept / "b.tar", later_ms=60_000)
    again = [epoch(tmp_path / "again"), *versions(tmp_path / "again")[1:]]
    assert all(now > before for now, before in zip(again, said, strict=True))


def test_the_project_that_was_there_lies_beside(kept: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(kept / "other", tmp_path / "project"))
    (folder / "uploads").mkdir()
    (folder / f"{DATABASE_FILE}-wal").write_bytes(b"of the other database")
    before = files(folder)
    aside = restore(folder, kept / "b.tar").aside
    assert aside is not None
    assert files(aside) == before
    assert settings_file.read(folder).name == "old"
    assert all(finding.is_well for finding in examine(folder))


def test_a_backup_without_keys_goes_on_with_those_that_are_here(kept: Path, tmp_path: Path) -> None:
    back_up(kept / "old", tmp_path / "b.tar", with_keys=False)
    with tarfile.open(tmp_path / "b.tar") as tar:
        assert "keys/" not in "".join(tar.getnames())
    elsewhere = restore(tmp_path / "new", tmp_path / "b.tar")
    assert "scheduler" in elsewhere.absent_keys
    assert elsewhere.behind == ("targets", "snapshot", "timestamp")
    folder = Path(shutil.copytree(kept / "old", tmp_path / "project"))
    here = restore(folder, tmp_path / "b.tar")
    assert (here.absent_keys, here.behind) == ((), ())
    # Another project's keys are no help.
    foreign = Path(shutil.copytree(kept / "other", tmp_path / "foreign"))
    assert "scheduler" in restore(foreign, tmp_path / "b.tar").absent_keys


# --- what is refused ---------------------------------------------------------------------------------


def cut(raw: bytes) -> bytes:
    return raw[: len(raw) * 2 // 3]


def with_a_flipped_bit(raw: bytes) -> bytes:
    at = raw.rindex(b"\2" * 700)
    return raw[:at] + b"\3" + raw[at + 1 :]


def with_a_tail(raw: bytes) -> bytes:
    return raw + b"more"


def rewritten(change: Callable[[ArchiveWriter, str, bytes], None]) -> Callable[[bytes], bytes]:
    """A backup that was taken apart and put together again, digest and all."""

    def write(raw: bytes) -> bytes:
        made = io.BytesIO()
        writer = ArchiveWriter(made)
        for member in archive.ArchiveReader(io.BytesIO(raw)):
            change(writer, member.name, member.read(2**30))
        writer.end()
        return made.getvalue()

    return write


def replacing(name: str, old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    def change(writer: ArchiveWriter, member: str, raw: bytes) -> None:
        writer.add(member, raw.replace(old, new) if member == name else raw)

    return rewritten(change)


def without(name: str) -> Callable[[bytes], bytes]:
    def change(writer: ArchiveWriter, member: str, raw: bytes) -> None:
        if member != name:
            writer.add(member, raw)

    return rewritten(change)


def beginning_with(info: tarfile.TarInfo, raw: bytes = b"") -> Callable[[bytes], bytes]:
    """A tar of whatever kind; the rest follows."""

    def write(rest: bytes) -> bytes:
        made = io.BytesIO()
        with tarfile.open(fileobj=made, mode="w", format=tarfile.GNU_FORMAT) as tar:
            info.size = len(raw)
            tar.addfile(info, io.BytesIO(raw))
        return made.getvalue()[: 512 + len(raw) + -len(raw) % 512] + rest

    return write


def linked(name: str, to: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, to
    return info


def doubled(writer: ArchiveWriter, name: str, raw: bytes) -> None:
    writer.add(name, raw)
    if name == "project.toml":
        writer.add(name, raw)


def with_a_strangers_file(writer: ArchiveWriter, name: str, raw: bytes) -> None:
    writer.add(name, raw)
    if name == "project.toml":
        writer.add("serve.json", b"{}")


def with_a_torn_database(writer: ArchiveWriter, name: str, raw: bytes) -> None:
    writer.add(name, raw[:5000] + bytes(20_000) + raw[25_000:] if name == DATABASE_FILE else raw)


TAMPERED: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda raw: b"", "cut off"),
    "cut off": (cut, "cut off"),
    "cut before its digest": (lambda raw: raw[: -4 * 512], "cut off"),
    "a flipped bit": (with_a_flipped_bit, "not what was written"),
    "something behind": (with_a_tail, "after its end"),
    "no tar": (lambda raw: b"\x7fELF" + raw, "damaged, or no file"),
    "another tar": (beginning_with(tarfile.TarInfo("notes.txt"), b"hello"), "no backup"),
    "a way out": (beginning_with(tarfile.TarInfo("../../etc/passwd")), "no name of a project's"),
    "from the root": (beginning_with(tarfile.TarInfo("/etc/passwd")), "no name of a project's"),
    "a link": (beginning_with(linked("keys", "/etc")), "no plain file"),
    "a long name": (beginning_with(tarfile.TarInfo("a" * 200)), "no plain file"),
    "a stranger's file": (rewritten(with_a_strangers_file), "belongs to no project"),
    "a file twice": (rewritten(doubled), "twice"),
    "no database": (without(DATABASE_FILE), f"{DATABASE_FILE} is not in it"),
    "no key that it names": (without("keys/batch.pem"), "keys/batch.pem is not in it"),
    "a torn database": (rewritten(with_a_torn_database), "not a sound database"),
    "a later format": (replacing("backup.json", b'"format":1', b'"format":2'), "later version"),
    "a later schema": (replacing("backup.json", b'"schema":"0', b'"schema":"9'), "later version"),
    "made tomorrow": (replacing("backup.json", b'"made_ms":1', b'"made_ms":9'), "still to come"),
    "no facts": (replacing("backup.json", b'"name"', b'"mane"'), "cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("how", TAMPERED)
def test_a_bad_backup_is_refused_and_nothing_is_written(
    kept: Path, tmp_path: Path, how: str
) -> None:
    change, said = TAMPERED[how]
    (tmp_path / "bad.tar").write_bytes(change((kept / "b.tar").read_bytes()))
    with pytest.raises(Refused, match=said) as refused:
        restore(tmp_path / "new", tmp_path / "bad.tar")
    assert "bad.tar" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.tar"]


def test_keys_of_another_project_are_refused(kept: Path, tmp_path: Path) -> None:
    theirs = (kept / "other" / "keys" / "timestamp.pem").read_bytes()

    def change(writer: ArchiveWriter, member: str, raw: bytes) -> None:
        writer.add(member, theirs if member == "keys/timestamp.pem" else raw)

    (tmp_path / "bad.tar").write_bytes(rewritten(change)((kept / "b.tar").read_bytes()))
    with pytest.raises(Refused, match="not the key that the metadata names"):
        restore(tmp_path / "new", tmp_path / "bad.tar")


def test_a_served_project_and_one_at_work_are_left_alone(kept: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(kept / "old", tmp_path / "project"))
    with serving.only_one(folder), pytest.raises(Conflict, match="served already; stop it first"):
        restore(folder, kept / "b.tar")
    with cli_project.opened(folder), pytest.raises(Conflict, match="another command works"):
        restore(folder, kept / "b.tar")
    with (
        swapping.alone(folder),
        pytest.raises(Conflict, match="being restored"),
        cli_project.opened(folder),
    ):
        pass


def test_a_backup_does_not_replace_a_file_unasked(kept: Path, tmp_path: Path) -> None:
    (tmp_path / "b.tar").write_bytes(b"precious")
    with pytest.raises(Conflict, match="--force"):
        back_up(kept / "old", tmp_path / "b.tar")
    with pytest.raises(Refused, match="is a directory"):
        back_up(kept / "old", tmp_path)
    assert files(tmp_path) == {"b.tar": b"precious"}


def test_a_damaged_database_is_not_backed_up(kept: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(kept / "old", tmp_path / "project"))
    with cli_project.opened(folder) as project:
        raw = (folder / DATABASE_FILE).read_bytes()
        (folder / DATABASE_FILE).write_bytes(raw[:5000] + bytes(30_000) + raw[35_000:])
        with pytest.raises(Outage, match="cannot be copied"):
            cli_copies.back_up(project, tmp_path / "b.tar", replaces=False, with_keys=True)
    assert [path.name for path in tmp_path.iterdir()] == ["project"]


def test_what_was_erased_is_not_in_a_backup(kept: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(kept / "old", tmp_path / "project"))
    name = b"somebody-who-left-for-good"
    with closing(sqlite3.connect(folder / DATABASE_FILE)) as connection, connection:
        connection.execute("PRAGMA secure_delete = OFF")
        connection.execute("INSERT INTO meta VALUES ('x', ?)", (name,))
        connection.commit()
        connection.execute("DELETE FROM meta WHERE key = 'x'")
    assert name in (folder / DATABASE_FILE).read_bytes()
    back_up(folder, tmp_path / "b.tar")
    assert name not in (tmp_path / "b.tar").read_bytes()


def test_the_commands_say_what_was_done_and_what_is_lost(
    kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(kept / "old", tmp_path / "project"))

    def ran(*arguments: str) -> tuple[int, str, str]:
        code = cli.run(["--dir", str(folder), *arguments])
        return code, *capsys.readouterr()

    file = str(tmp_path / "b.tar")
    code, out, _ = ran("backup", file)
    assert code == 0
    assert "SECRET KEYS (root, targets, snapshot, timestamp, batch, scheduler)" in out
    code, out, err = ran("backup", file)
    assert (code, out, len(err.splitlines())) == (1, "", 1)
    code, out, _ = ran("backup", file, "--force", "--without-keys", "--json")
    assert code == 0
    assert json.loads(out)["keys"] == []
    code, out, err = ran("restore", file)
    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert "--yes" in err
    code, out, err = ran("restore", file, "--yes")
    assert (code, err) == (0, "")
    for said in ("Lost is everything since", "replaced-", "next: "):
        assert said in out
    code, out, err = ran("restore", str(tmp_path / "absent.tar"), "--yes")
    assert (code, out) == (1, "")
    assert err == f"error: {tmp_path / 'absent.tar'}: No such file or directory\n"


# --- a process that ends at any moment ---------------------------------------------------------------


class Dead(BaseException):
    """The process was killed: nothing of it runs any more."""


class Mortal:
    """From the n-th call into the operating system on, every one of them ends the process."""

    CALLS = ("rename", "replace", "mkdir", "rmdir", "unlink", "fsync", "sync", "open")

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made = 0
        self.last: int | None = None
        for name in self.CALLS:
            monkeypatch.setattr(os, name, self._mortal(getattr(os, name)))

    def _mortal(self, call: Callable[..., object]) -> Callable[..., object]:
        def mortal(*arguments: object, **more: object) -> object:
            self.made += 1
            if self.last is not None and self.made > self.last:
                raise Dead
            return call(*arguments, **more)

        return mortal

    def dies_after(self, calls: int) -> None:
        self.made, self.last = 0, calls

    def lives(self) -> None:
        self.last = None


@pytest.fixture
def mortal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mortal]:
    with monkeypatch.context() as patched:
        yield Mortal(patched)


def test_a_swap_that_is_cut_off_anywhere_leaves_the_old_or_the_new(
    tmp_path: Path, mortal: Mortal
) -> None:
    old = dict.fromkeys((*swapping.PARTS, f"{DATABASE_FILE}-wal", "uploads"), b"old")
    new = dict.fromkeys(swapping.PARTS, b"new")
    seen = set()
    for calls in range(100):
        folder = tmp_path / str(calls)
        mortal.lives()
        write_all(folder, old)
        write_all(swapping.prepare(folder), new)
        mortal.dies_after(calls)
        try:
            swapping.decide(folder, Milliseconds(0))
            swapping.finish_alone(folder)
            is_over = True
        except Dead:
            is_over = False
        mortal.lives()
        swapping.finish(folder)  # as the next command does
        now = {name: (folder / name).read_bytes() for name in old if (folder / name).exists()}
        assert now in (old, new)
        seen.add(now["project.toml"])
        if now == new:
            [aside] = folder.glob("replaced-*")
            assert {path.name: path.read_bytes() for path in aside.iterdir()} == old
        if is_over:
            break
    assert is_over
    assert calls > len(swapping.PARTS) * 2
    assert seen == {b"old", b"new"}


def write_all(folder: Path, content: dict[str, bytes]) -> None:
    folder.mkdir(exist_ok=True)
    for name, raw in content.items():
        (folder / name).write_bytes(raw)


def test_a_restore_that_is_cut_off_is_mended_by_another(
    kept: Path, tmp_path: Path, mortal: Mortal
) -> None:
    """At some of its some hundred calls: the swap, which matters most, is done at each above."""
    restore(tmp_path / "whole", kept / "b.tar")
    whole = mortal.made
    names = set()
    for calls in range(2, whole, whole // 20):
        folder = tmp_path / str(calls)
        mortal.lives()
        shutil.copytree(kept / "other", folder)
        mortal.dies_after(calls)
        with pytest.raises(Dead):
            restore(folder, kept / "b.tar")
        mortal.lives()
        swapping.finish(folder)
        names.add(settings_file.read(folder).name)
        assert all(finding.is_well for finding in examine(folder))
        restore(folder, kept / "b.tar")
        assert settings_file.read(folder).name == "old"
        assert not (folder / swapping.PREPARED).exists()
        assert all(finding.is_well for finding in examine(folder))
    assert "other" in names


@pytest.mark.parametrize("calls", range(1, 30, 5))
def test_a_full_disk_leaves_no_backup_and_no_rest(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    left = iter(range(calls))
    write = ArchiveWriter._write

    def full(writer: ArchiveWriter, raw: bytes) -> None:
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "b.tar")
        write(writer, raw)

    monkeypatch.setattr(ArchiveWriter, "_write", full)
    with pytest.raises(OSError, match="No space left"):
        back_up(kept / "old", tmp_path / "b.tar")
    assert list(tmp_path.iterdir()) == []
