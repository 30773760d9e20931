"""`project.toml`: what is read, and what is refused with which words."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.adapters import settings_file
from server.errors import NotFound, Refused
from server.settings import ProjectSettings


def reading(folder: Path, text: str) -> ProjectSettings:
    (folder / "project.toml").write_text(text)
    return settings_file.read(folder)


@given(name=st.text(st.characters(codec="utf-8"), min_size=1, max_size=64))
def test_every_name_that_is_allowed_is_read_back(
    name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("project")
    try:
        settings = ProjectSettings(settings_file.check_name(name), "invite")
    except Refused:
        return
    settings_file.write(folder, settings)
    assert settings_file.read(folder) == settings


def test_an_address_is_optional(tmp_path: Path) -> None:
    assert reading(tmp_path, 'name = "a"') == ProjectSettings("a", "open", None)
    found = reading(tmp_path, 'name = "a"\npublic_address = "https://x.org"')
    assert found.public_address == "https://x.org"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('name = "a"\nsign_upp = "open"', "unknown key 'sign_upp'; did you mean 'sign_up'?"),
        ('name = "a"\nzzz = 1', "known are: name, sign_up, public_address"),
        ('name = "a"\nsign_up = "closed"', "must be one of: open, invite"),
        ("name = 5", "name is 5; write it as text in quotes"),
        ("", "name is missing"),
        ('name = ""', "1 to 64 characters"),
        ("name = ", "is not TOML"),
        ('name = "a"\npublic_address = 7', "public_address is 7"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(Refused, match=re.escape(words)) as caught:
        reading(tmp_path, text)
    assert "\n" not in str(caught.value).strip()


def test_no_project(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="init"):
        settings_file.read(tmp_path)
