"""`DIR/project.toml`: reading it strictly, and the text that `init` writes."""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Final

from server.adapters import durable_files
from server.errors import NotFound, Refused
from server.settings import ProjectSettings
from workunits.wire import limits

FILE: Final = "project.toml"
SIGN_UP: Final = ("open", "invite")
_KEYS: Final = tuple(field.name for field in fields(ProjectSettings))
_TEXT: Final = """\
# A Tesla@home project. Keys, metadata, blobs and the database lie beside this file.

# As owners see it.
name = {name}

# "open": anybody may join. "invite": with a code from `tesla-at-home-server invite create`.
# After a change run `tesla-at-home-server serve` anew; owners are told in signed metadata.
sign_up = "{sign_up}"

# Where owners reach the project, if a proxy stands before it.
# public_address = "https://example.org"
"""


def write(folder: Path, settings: ProjectSettings) -> None:
    """The file of a new project."""
    text = _TEXT.format(name=_quoted(settings.name), sign_up=settings.sign_up)
    durable_files.replace(folder / FILE, text.encode(), durable_files.PRIVATE)


def read(folder: Path) -> ProjectSettings:
    """The settings of the project in `folder`.

    Raises:
        NotFound: there is none.
        Refused: which key is wrong, and how to mend it.
    """
    try:
        text = (folder / FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise NotFound(
            f"{folder} is no project's directory; make one with: "
            f"tesla-at-home-server --dir {folder} init"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"{FILE} cannot be read: {error}") from None
    try:
        return _checked(tomllib.loads(text))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise Refused(f"{FILE} is not TOML: {error}") from None


def _checked(values: dict[str, object]) -> ProjectSettings:
    for key in values:
        if key not in _KEYS:
            raise Refused(f"{FILE}: unknown key {key!r}{_nearest(key)}")
    address = values.get("public_address")
    return ProjectSettings(
        name=check_name(_text(values, "name")),
        sign_up=check_sign_up(_text(values, "sign_up") if "sign_up" in values else "open"),
        public_address=None if address is None else _text(values, "public_address"),
    )


def check_name(name: str) -> str:
    """`name`, if a project can be called so."""
    if not 1 <= len(name) <= limits.NAME_CHARS or not name.isprintable() or not name.strip():
        raise Refused(f"name: 1 to {limits.NAME_CHARS} characters on one line")
    return name


def check_sign_up(value: str) -> str:
    """`value`, if it is a way of signing up."""
    if value not in SIGN_UP:
        raise Refused(f"{FILE}: sign_up is {value!r}, must be one of: {', '.join(SIGN_UP)}")
    return value


def _text(values: dict[str, object], key: str) -> str:
    value = values.get(key)
    if not isinstance(value, str):
        wrong = "is missing" if value is None else f"is {value!r}"
        raise Refused(f"{FILE}: {key} {wrong}; write it as text in quotes")
    return value


def _nearest(key: str) -> str:
    found = difflib.get_close_matches(key, _KEYS, n=1)
    return f"; did you mean {found[0]!r}?" if found else f"; known are: {', '.join(_KEYS)}"


def _quoted(text: str) -> str:
    """A TOML basic string of printable characters."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
