"""Files that a hostile submitter gives as rows; each with words that its refusal must hold.

Code in the place of numbers, little files that unpack into gigabytes, headers that lie, and text that
different readers read differently. What is merely wrong stands in `test_kinds_reading`.
"""

from __future__ import annotations

import json
import os
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from workunits.kinds.base import KindOptions
from workunits.kinds.classify import read_class_names
from workunits.kinds.registry import kind
from workunits.wire.messages import TensorSpec

X: Final = TensorSpec(name="x", dtype="float32", shape=(2,))
N: Final = TensorSpec(name="n", dtype="int64", shape=())
ONE: Final = TensorSpec(name="x", dtype="float32", shape=())

Specs = tuple[TensorSpec, ...]


@dataclass(frozen=True, slots=True)
class Hostile:
    """`specs` are the model's inputs; without any the file is one of class names."""

    file: str
    make: Callable[[Path], object]
    words: str
    specs: Specs = (X,)


def read_all(path: Path, specs: Specs) -> int:
    """How many rows or class names are in the file; all of it is read."""
    if not specs:
        return len(read_class_names(path))
    source = kind("tensor").read(path, specs, KindOptions())
    return sum(len(block["x"]) for block in source.blocks(256))


def written(raw: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(raw)


# --- numpy --------------------------------------------------------------------------------------


def header(
    *, descr: str = "'<f4'", shape: str = "(6, 2)", more: str = "", version: int = 1
) -> bytes:
    """What numpy writes before the numbers, with any text in it."""
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, {more}}}\n".encode()
    return b"\x93NUMPY" + struct.pack("<BB" + "HI"[version - 1], version, 0, len(text)) + text


def npy(**said: str) -> Callable[[Path], object]:
    return written(header(**said) + bytes(48))  # type: ignore[arg-type]


GOOD: Final = header() + bytes(48)


class Pickled:
    """Says so when it is unpickled, by a file that appears in the current directory."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch a-pickle-was-loaded",)


def pickled(path: Path) -> None:
    np.save(path, np.array([Pickled()], dtype=object), allow_pickle=True)


def archived(
    members: Iterable[tuple[str, bytes]], method: int = zipfile.ZIP_DEFLATED
) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        with warnings.catch_warnings(), zipfile.ZipFile(path, "w", method) as archive:
            warnings.simplefilter("ignore")  # of names that stand twice
            for name, raw in members:
                archive.writestr(name, raw)

    return make


def archive_of_a_pickle(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive, archive.open("x.npy", "w") as member:
        np.save(member, np.array([Pickled()], dtype=object), allow_pickle=True)


def encrypted(path: Path) -> None:
    archived([("x.npy", GOOD)])(path)
    raw = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        raw[raw.rindex(signature) + flags] |= 1
    path.write_bytes(raw)


def unpacking(head: bytes, method: int = zipfile.ZIP_DEFLATED) -> Callable[[Path], None]:
    """A member of `head` and 64 MiB of zeros, which take a few hundred bytes or some KiB."""

    def make(path: Path) -> None:
        with zipfile.ZipFile(path, "w", method) as archive, archive.open("x.npy", "w") as member:
            member.write(head)
            for _ in range(64):
                member.write(bytes(1 << 20))

    return make


# --- safetensors --------------------------------------------------------------------------------


def safe(text: bytes, data: int = 48) -> Callable[[Path], object]:
    return written(struct.pack("<Q", len(text)) + text + bytes(data))


def entries(data: int = 48, **places: tuple[str, list[int], list[int]]) -> Callable[[Path], object]:
    """Tensors by name: dtype, shape, where from and to."""
    named = {
        name: {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        for name, (dtype, shape, offsets) in places.items()
    }
    return safe(json.dumps(named).encode(), data)


_FIRST: Final = b'"x":{"dtype":"F32","shape":[6,2],"data_offsets":[0,48]}'
_SECOND: Final = b'"x":{"dtype":"F32","shape":[3,2],"data_offsets":[0,24]}'


def very_many_tensors() -> Callable[[Path], object]:
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    return safe(json.dumps({f"x{i}": entry for i in range(100_000)}).encode(), 0)


# --- parquet ------------------------------------------------------------------------------------


def parquet(**columns: pa.Array) -> Callable[[Path], object]:
    return lambda path: pq.write_table(pa.table(dict(columns)), path)


def one_long_list(path: Path) -> None:
    """A row of eight million zeros, which take a few hundred bytes; it could be two thousand million."""
    numbers = pa.array(np.zeros(8_000_000, np.float32))
    table = pa.table(
        {"x": pa.ListArray.from_arrays(pa.array([0, len(numbers)], pa.int32()), numbers)}
    )
    pq.write_table(table, path, compression="zstd")


def nested(depth: int) -> Callable[[Path], object]:
    kind_of_list = pa.float32()
    for _ in range(depth):
        kind_of_list = pa.list_(kind_of_list)
    return parquet(x=pa.array([None], kind_of_list))


def footer_past_the_end() -> bytes:
    return b"PAR1" + b"\xff" * 100 + struct.pack("<I", 2**31 - 1) + b"PAR1"


# --- files that are none ------------------------------------------------------------------------


def linked(target: str) -> Callable[[Path], object]:
    return lambda path: path.symlink_to(target)


_ESCAPES: Final = "\x1b[2J\u202e\n"
_PLAIN: Final = pa.array([1.0], pa.float32())

NUMPY: Final[Mapping[str, Hostile]] = {
    "a pickle as .npy": Hostile("x.npy", pickled, "never loaded"),
    "a pickle in .npz": Hostile("x.npz", archive_of_a_pickle, "never loaded"),
    "records with a pickle": Hostile("x.npy", npy(descr="[('a', '<f4'), ('b', '|O')]"), "records"),
    "code for a shape": Hostile("x.npy", npy(shape="(__import__('os').system('x'),)"), "damaged"),
    "a shape of 2^62": Hostile("x.npy", npy(shape="(4611686018427387904, 2)"), "has shape"),
    "a shape of 60,000 digits": Hostile("x.npy", npy(shape=f"({'9' * 60_000}, 2)"), "damaged"),
    "two shapes": Hostile("x.npy", npy(more="'shape': (3, 4), "), "damaged"),
    "a negative shape": Hostile("x.npy", npy(shape="(-6, -2)"), "damaged"),
    "a header of 4 GiB": Hostile(
        "x.npy", written(b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1)), "header"),
    "a packed header of 2 GiB": Hostile(
        "x.npz", unpacking(b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31)), "header"),
    "an array larger than it says": Hostile("x.npz", unpacking(header()), "wrong length"),
    "bzip2, which unpacks without a bound": Hostile(
        "x.npz", unpacking(header(shape="(8388608, 2)"), zipfile.ZIP_BZIP2), "as numpy never"),
    "lzma": Hostile("x.npz", archived([("x.npy", GOOD)], zipfile.ZIP_LZMA), "as numpy never"),
    "an archive in an archive": Hostile("x.npz", archived([("x.npy", b"PK\x03\x04")]), "not in .npy"),
    "a member twice": Hostile("x.npz", archived([("x.npy", GOOD)] * 2), "twice 'x'"),
    "a member that leads out": Hostile("x.npz", archived([("../x.npy", GOOD)]), "not an input '../x'"),
    "a member that steers the terminal": Hostile(
        "x.npz", archived([(f"{_ESCAPES}.npy", GOOD)]), "\\x1b[2J\\u202e"),
    "members without number": Hostile(
        "x.npz", archived((f"{i}.npy", b"") for i in range(5000)), "5000 members"),
    "an encrypted member": Hostile("x.npz", encrypted, "damaged, or not a .npz"),
}  # fmt: skip

SAFETENSORS: Final[Mapping[str, Hostile]] = {
    "a header of 2^63": Hostile("x.safetensors", written(struct.pack("<Q", 2**63)), "damaged"),
    "a header nested without end": Hostile("x.safetensors", safe(b"[" * 900_000), "damaged"),
    "a hundred thousand tensors": Hostile("x.safetensors", very_many_tensors(), "damaged"),
    "tensors on top of each other": Hostile(
        "x.safetensors", entries(x=("F32", [6, 2], [0, 48]), n=("I64", [6], [0, 48])), "overlaps", (X, N)),
    "a gap": Hostile("x.safetensors", entries(96, x=("F32", [6, 2], [48, 96])), "gap"),
    "bytes behind the end": Hostile("x.safetensors", entries(96, x=("F32", [6, 2], [0, 48])), "follow"),
    "a tensor twice": Hostile(
        "x.safetensors", safe(b"{" + _FIRST + b"," + _SECOND + b"}"), "twice 'x'"),
    "a tensor before the start": Hostile("x.safetensors", entries(x=("F32", [6, 2], [-48, 0])), "damaged"),
}  # fmt: skip

LINES: Final[Mapping[str, Hostile]] = {
    "a line of 10 MB": Hostile("x.jsonl", written(b"[1, 2]\n[" + b"1," * 5_000_000), "line 2: longer"),
    "blanks without a line": Hostile("x.jsonl", written(b" " * 20_000_000), "line 1: longer"),
    "lists nested without end": Hostile("x.jsonl", written(b"[1, 2]\n" + b"[" * 60_000), "line 2"),
    "a key twice": Hostile("x.jsonl", written(b'{"n":1,"x":[1,2],"n":2}'), "line 1: keys", (X, N)),
    "a key twice, written otherwise": Hostile(
        "x.jsonl", written(b'{"x":[1,2],"n":1,"\\u006e":2}'), "twice 'n'", (X, N)),
    "NaN": Hostile("x.jsonl", written(b"[1, 2]\n[NaN, 1]"), "line 2"),
    "a number of 60,000 digits": Hostile("x.jsonl", written(b"[" + b"9" * 60_000 + b", 1]"), "line 1"),
    "bytes that are no text": Hostile("x.jsonl", written(b'[1, 2]\n{"\xff\xfe": 1}'), "line 2"),
    "UTF-16": Hostile("x.jsonl", written("[1, 2]\n".encode("utf-16")), "line 1"),
    "null bytes": Hostile("x.jsonl", written(bytes(1000)), "line 1"),
    "a key that steers the terminal": Hostile(
        "x.jsonl", written(json.dumps({_ESCAPES: 1}).encode()), "\\x1b[2J"),
    "half a surrogate": Hostile("x.jsonl", written(b'{"\\ud800": 1}'), "line 1"),
    "mixed kinds of lines": Hostile("x.jsonl", written(b'[1, 2]\n{"x": [1, 2]}\n"a"\n'), "line 3"),
    "thousands of keys": Hostile(
        "x.jsonl", written(b"{" + b",".join(b'"k%d":1' % i for i in range(4000)) + b"}"), "and 3992 more"),
}  # fmt: skip

PARQUET: Final[Mapping[str, Hostile]] = {
    "a list of millions in one row": Hostile("x.parquet", one_long_list, "8,000,000 numbers in 1 rows"),
    "lists nested 60 deep": Hostile("x.parquet", nested(60), "cannot be read"),
    "a struct that steers the terminal": Hostile(
        "x.parquet", parquet(x=pa.array([{_ESCAPES: 1}])), "struct<?[2J??"),
    "a dictionary": Hostile("x.parquet", parquet(x=pa.array(["a"]).dictionary_encode()), "dictionary"),
    "a decimal": Hostile("x.parquet", parquet(x=pa.array([1], pa.decimal128(38))), "decimal128"),
    "thousands of columns": Hostile(
        "x.parquet", parquet(**{f"c{i}": _PLAIN for i in range(2000)}), "and 1992 more"),
    "a footer past the end": Hostile("x.parquet", written(footer_past_the_end()), "damaged"),
    "an encrypted footer": Hostile(
        "x.parquet", written(b"PARE" + bytes(100) + struct.pack("<I", 50) + b"PARE"), "cannot be read"),
}  # fmt: skip

CLASSES: Final[Mapping[str, Hostile]] = {
    "a class that steers the terminal": Hostile("c", written(b"cat\n\x1b[2Jdog\n"), "line 2 holds U+001B", ()),
    "a class that turns the line": Hostile("c", written("cat\n\u202edog".encode()), "U+202E", ()),
    "a class of a megabyte": Hostile("c", written(b"cat\n" + b"a" * 1_000_000), "line 2 is longer", ()),
    "millions of classes": Hostile("c", written(b"a\n" * 2_000_000), "too long", ()),
    "70 MB of a class": Hostile("c", written(b"a" * 70_000_000), "too long", ()),
}  # fmt: skip

DEVICES: Final[Mapping[str, Hostile]] = {
    f"{what} as {file}": Hostile(file, make, words, () if file == "c" else (ONE,))
    for file in ("x.npy", "x.npz", "x.safetensors", "x.jsonl", "x.parquet", "c")
    for what, make, words in (
        ("a pipe", lambda path: os.mkfifo(path), "no ordinary file"),
        ("a device", linked("/dev/zero"), "no ordinary file"),
        ("a folder", lambda path: path.mkdir(), "cannot be read"),
        ("a link to nothing", linked("nothing"), "no such file"),
    )
}

HOSTILE: Final[Mapping[str, Hostile]] = {
    **NUMPY, **SAFETENSORS, **LINES, **PARQUET, **CLASSES, **DEVICES
}  # fmt: skip
