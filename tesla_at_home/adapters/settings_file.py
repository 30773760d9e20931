"""`DIR/config.toml`: the owner's settings, also edited by hand.

A change keeps the lines that it does not touch, comments included. What a value may be is decided in
`settings`.
"""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Final

from tesla_at_home import settings
from tesla_at_home.adapters.files import write_whole
from tesla_at_home.errors import BadSetting, ClientError
from tesla_at_home.settings import Settings, Value

FILE_NAME: Final = "config.toml"


def read(directory: Path) -> Settings:
    """The settings of a directory; defaults where nothing is set.

    Raises:
        BadSetting: the file is no TOML, or has a setting that is unknown or out of its bounds.
    """
    path = directory / FILE_NAME
    return _built(_values(_text(directory), path), path)


def change(directory: Path, name: str, raw: object) -> Settings:
    """Set one setting and keep it; gives all of them as they are now.

    Raises:
        BadSetting: unknown, or a value that is none for it; nothing was changed.
    """
    value = settings.parse(name, raw)
    before = _text(directory)
    path = directory / FILE_NAME
    kept = _values(before, path)
    kept.pop(name, None)
    _built(kept, path)
    values = kept | {name: value}
    changed = settings.build(values)
    text = _with(before, name, value)
    if not _says(text, values):
        # A value over several lines: written anew as a whole, since a line cannot be exchanged.
        text = _written({key: settings.parse(key, each) for key, each in values.items()})
    write_whole(path, text.encode())
    return changed


def _built(values: dict[str, object], path: Path) -> Settings:
    try:
        return settings.build(values)
    except BadSetting as error:
        raise BadSetting(f"{path}: {error}; mend the line or remove it") from None


def _text(directory: Path) -> str:
    path = directory / FILE_NAME
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ClientError(f"{path}: {reason}") from None


def _values(text: str, path: Path) -> dict[str, object]:
    """Dotted names and what TOML says of them."""
    try:
        tables = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise BadSetting(f"{path}: not TOML: {error}; mend the line or remove it") from None
    found: dict[str, object] = {}
    for section, table in tables.items():
        if not isinstance(table, dict):
            raise BadSetting(
                f"{path}: {section!r} stands outside a [section]; mend the line or remove it"
            )
        found |= {f"{section}.{key}": value for key, value in table.items()}
    return found


def _with(text: str, name: str, value: Value) -> str:
    """The text with one line exchanged, or added to its section."""
    section, key = name.split(".")
    line = f"{key} = {_toml(value)}"
    lines = text.splitlines()
    start = _find(lines, rf"\s*\[{section}\]\s*(#.*)?", 0)
    if start is None:
        return "\n".join([*lines, *([""] if lines else []), f"[{section}]", line, ""])
    end = _find(lines, r"\s*\[.*", start + 1) or len(lines)
    old = _find(lines[:end], rf"\s*{key}\s*=.*", start + 1)
    if old is None:
        lines.insert(start + 1, line)
    else:
        lines[old] = line
    return "\n".join([*lines, ""])


def _find(lines: list[str], pattern: str, first: int) -> int | None:
    matching = (n for n in range(first, len(lines)) if re.fullmatch(pattern, lines[n]))
    return next(matching, None)


def _says(text: str, values: dict[str, object]) -> bool:
    try:
        return settings.build(_values(text, Path(FILE_NAME))) == settings.build(values)
    except BadSetting:
        return False


def _written(values: dict[str, Value]) -> str:
    text = ""
    for name in sorted(values):
        text = _with(text, name, values[name])
    return text


def _toml(value: Value) -> str:
    if value is None:
        return '"none"'
    if isinstance(value, tuple):
        return f"[{', '.join(_toml(each) for each in value)}]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return json.dumps(value)
