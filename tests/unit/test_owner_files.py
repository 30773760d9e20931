"""The vehicle's key and the owner's settings as files."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tesla_at_home import settings
from tesla_at_home.adapters import files, keystore, settings_file
from tesla_at_home.adapters.keystore import FileKeys
from tesla_at_home.adapters.vehicle import sources
from tesla_at_home.errors import BadSetting, ClientError, NotAvailableYet, UnknownVehicle
from tests.support.still_clock import StillClock
from workunits.trust import roles
from workunits.values import Nonce
from workunits.wire.messages import Departure


def test_a_key_is_made_once_and_signs(tmp_path: Path) -> None:
    directory = tmp_path / "new"
    keys = FileKeys.open_or_create(directory)
    assert FileKeys.open_or_create(directory).public == keys.public
    assert stat.S_IMODE((directory / "key.pem").stat().st_mode) == 0o600
    departure = Departure(key=keys.public, erase=False, nonce=Nonce(bytes(16)))
    assert roles.accept_departure(keys.seal(departure, roles.DEPARTURE)) == departure
    keystore.delete(directory)
    with pytest.raises(ClientError, match="missing; restore it"):
        FileKeys.open(directory)
    assert not (directory / "key.pem").exists()


@pytest.mark.parametrize("damage", [b"", b"not a key", bytes(100)])
def test_what_is_no_key_is_one_line_and_stays(damage: bytes, tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(damage)
    for open_it in (FileKeys.open, FileKeys.open_or_create):
        with pytest.raises(ClientError, match="not a private key; restore it"):
            open_it(tmp_path)
    assert path.read_bytes() == damage


def test_another_kind_of_key_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    other = X25519PrivateKey.generate()
    path.write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(ClientError, match="not an Ed25519 key"):
        FileKeys.open(tmp_path)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    files.write_whole(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        files.write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


HAND_WRITTEN = """\
# my car
[gate]
hours = "22:00-06:30"  # cheap power

[limits]
duty = 50
"""


def test_no_file_is_all_defaults(tmp_path: Path) -> None:
    assert settings_file.read(tmp_path) == settings.Settings()


def test_a_change_keeps_what_was_written_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(HAND_WRITTEN)
    settings_file.change(tmp_path, "limits.duty", "7.5")
    settings_file.change(tmp_path, "gate.calm_s", "0")
    settings_file.change(tmp_path, "work.units", "3")
    changed = settings_file.change(tmp_path, "gate.temperature", "none")
    assert settings_file.read(tmp_path) == changed
    assert (changed.limits.duty, changed.gate.calm_s, changed.work.units) == (7.5, 0.0, 3)
    assert changed.gate.temperature is None
    assert changed.gate.hours == "22:00-06:30"
    text = path.read_text()
    assert "# my car" in text
    assert "# cheap power" in text
    assert "duty = 50" not in text


def test_a_list_over_several_lines_is_exchanged_whole(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('[vehicle]\nsources = [\n  "scripted:home",\n]\n[gate]\nhours = "1:00-2:00"\n')
    changed = settings_file.change(
        tmp_path, "vehicle.sources", ('scripted:/a "b"', "linux:stationary")
    )
    assert changed.vehicle.sources == ('scripted:/a "b"', "linux:stationary")
    assert settings_file.read(tmp_path) == changed
    assert changed.gate.hours == "1:00-2:00"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[gate", "not TOML"),
        ("duty = 5", "outside a"),
        ("[limits]\nduti = 5", "limits.duti"),
        ("[limits]\nduty = 0", "from 0.05 to 100"),
        ("[gate]\nhours = 'always'", "22:00-06:30"),
    ],
)
def test_a_bad_file_is_one_line(text: str, line: str, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(text)
    with pytest.raises(BadSetting, match=line) as caught:
        settings_file.read(tmp_path)
    assert str(tmp_path / "config.toml") in str(caught.value)
    assert "mend the line or remove it" in str(caught.value)


def test_a_refused_change_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(HAND_WRITTEN)
    for name, value in (("limits.duty", "fast"), ("limits.speed", "1"), ("gate.temperature", "60")):
        with pytest.raises(BadSetting):
            settings_file.change(tmp_path, name, value)
    assert (tmp_path / "config.toml").read_text() == HAND_WRITTEN


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_bytes(b"\xff\xff")
    with pytest.raises(ClientError, match="not UTF-8"):
        settings_file.read(tmp_path)


def test_a_scripts_path_is_kept_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "car.toml").write_text("[start]\nparked = true\n")
    monkeypatch.chdir(tmp_path)
    assert sources.check("scripted:car.toml") == f"scripted:{tmp_path.resolve() / 'car.toml'}"
    assert sources.check("scripted:home") == "scripted:home"
    assert sources.check("linux:stationary") == "linux:stationary"


@pytest.mark.parametrize("spec", ["linux", "teslamate:mqtt://h/x", "wall-connector:10.0.0.1"])
def test_vehicles_that_are_to_come(spec: str) -> None:
    with pytest.raises(NotAvailableYet, match="not available yet"):
        sources.check(spec)


@pytest.mark.parametrize("spec", ["", "bicycle", "linux:flying", "scripted"])
def test_vehicles_that_do_not_exist(spec: str) -> None:
    with pytest.raises(UnknownVehicle, match="linux:stationary"):
        sources.check(spec)


def test_the_same_source_twice_is_two_voices(tmp_path: Path) -> None:
    heard: list[str] = []
    both = sources.open_sources(("scripted:home", "scripted:home"), StillClock(), tuple)
    both.start(lambda said: heard.append(said.readings[0].source))
    both.stop()
    assert heard == ["scripted:home", "scripted:home (2)"]
