"""Foreign failures as the one line that the person sees, and checks that all formats share."""

from __future__ import annotations

import json
import stat
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from math import prod
from pathlib import Path

from workunits.errors import DataRefused
from workunits.wire.messages import TensorSpec

# What the standard library's readers raise on a damaged archive, encrypted or in an unknown method.
_DAMAGED = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, OverflowError, NotImplementedError, RuntimeError,
)  # fmt: skip

_SHOWN_NAMES = 8
_SHOWN_CHARS = 80


@contextmanager
def reading(path: Path, form: str) -> Iterator[None]:
    """Whatever a reader of `form` stumbles over, as `DataRefused`."""
    try:
        yield
    except FileNotFoundError:
        raise DataRefused(f"{path}: there is no such file") from None
    except OSError as error:
        raise DataRefused(f"{path}: cannot be read: {error.strerror or brief(error)}") from None
    except _DAMAGED as error:
        raise DataRefused(f"{path}: damaged, or not a {form} file ({brief(error)})") from None


def expect_file(path: Path) -> None:
    """Refuse pipes and devices, on which reading may wait or go on for ever.

    Also because a data set is read more than once. What is not there is for `reading` to tell.
    """
    with suppress(OSError):
        kind = path.stat().st_mode
        if not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):
            raise DataRefused(f"{path}: is no ordinary file; copy what it gives into one first")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """An answer that cannot be written, as `DataRefused`."""
    try:
        yield
    except OSError as error:
        raise DataRefused(f"{path}: cannot be written: {error.strerror or brief(error)}") from None


def check_names(path: Path, found: Sequence[str], specs: Sequence[TensorSpec], word: str) -> None:
    """Refuse unless `found` are exactly the inputs' names; `word` is what the format calls them."""
    wanted = [spec.name for spec in specs]
    # Counted once: a file may hold a million names.
    counts = Counter(found)
    missing = [name for name in wanted if name not in counts]
    extra = sorted(counts.keys() - set(wanted))
    twice = sorted(name for name, count in counts.items() if count > 1)
    faults = [
        f"{label} {listed(names)}"
        for label, names in (("missing", missing), ("not an input", extra), ("twice", twice))
        if names
    ]
    if faults:
        raise DataRefused(
            f"{path}: {word}s must be named as the model's inputs {listed(wanted)}; "
            + "; ".join(faults)
        )


def check_dtype(path: Path, what: str, found: str, spec: TensorSpec) -> None:
    """Refuse another dtype, with the call that mends it."""
    if found != spec.dtype:
        raise DataRefused(
            f"{path}: {what} is {found}, the model wants {spec.dtype}; "
            f"save it as x.astype({spec.dtype!r})"
        )


def check_row_shape(path: Path, what: str, shape: tuple[int, ...], spec: TensorSpec) -> None:
    """Refuse rows of another shape, with the call that mends it if there is one."""
    if len(shape) > 0 and shape[1:] == spec.shape:
        return
    message = f"{path}: {what} has shape {list(shape)}, the model wants {wanted_shape(spec)}"
    row_elements = prod(spec.shape)
    if len(shape) > 0 and prod(shape[1:]) == row_elements and row_elements > 0:
        message += f"; save it as x.reshape{(-1, *spec.shape)}".replace(",)", ")")
    raise DataRefused(message)


def check_rows(path: Path, rows: dict[str, int]) -> int:
    """The number of rows that all inputs have; refuse none, or different ones."""
    if len(set(rows.values())) != 1:
        text = ", ".join(f"{name!r} has {count}" for name, count in rows.items())
        raise DataRefused(f"{path}: inputs must have equally many rows; {text}")
    count = next(iter(rows.values()))
    if count == 0:
        raise DataRefused(f"{path}: there are no rows")
    return count


def wanted_shape(spec: TensorSpec) -> str:
    """As people read it: [rows, 3, 8]."""
    return "[" + ", ".join(["rows", *map(str, spec.shape)]) + "]"


def listed(names: Sequence[str]) -> str:
    """Some names for one line of text."""
    shown = ", ".join(repr(shortened(name)) for name in names[:_SHOWN_NAMES])
    return shown + (f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else "")


def shortened(text: str) -> str:
    """Names come from files and may be of any length."""
    return text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 1] + "…"


def brief(error: BaseException) -> str:
    """The first line of a foreign error."""
    text = str(error).strip().splitlines()
    return printable(shortened(text[0])) if text else type(error).__name__


def printable(text: str) -> str:
    """Foreign words without what would steer a terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)


def keys_of(text: bytes) -> list[str]:
    """The keys of a JSON object in their order, those that stand twice as well.

    Raises:
        ValueError, RecursionError: it is not one that Python reads.
    """
    return [name for name, _ in json.loads(text, object_pairs_hook=list)]


def only(path: Path, specs: Sequence[TensorSpec], advice: str) -> TensorSpec:
    """The one input of a format that has no names."""
    if len(specs) != 1:
        names = listed([spec.name for spec in specs])
        raise DataRefused(f"{path}: holds one array, the model has inputs {names}; {advice}")
    return specs[0]
