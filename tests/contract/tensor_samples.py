"""Tensor payloads for golden vectors, without numpy: one per thing that a reader can get wrong."""

from __future__ import annotations

from struct import pack
from typing import Final

from workunits.wire.tensors import DTYPE_BYTES, RawTensor

PAYLOADS: Final[dict[str, dict[str, RawTensor]]] = {
    "one": {"x": RawTensor("float32", (2, 2), pack("<4f", 0.0, 1.5, -2.0, 1e-3))},
    "not finite": {
        "x": RawTensor("float32", (4, 1), pack("<3f", float("inf"), float("-inf"), -0.0) + b"\0\0\xc0\x7f")
    },
    # Given by name; written widest dtype first.
    "order": {
        "a": RawTensor("bool", (3,), b"\0\1\1"),
        "b": RawTensor("int64", (1,), pack("<q", -1)),
        "c": RawTensor("float16", (2,), pack("<2e", 0.5, 65504.0)),
        "d": RawTensor("float64", (1,), pack("<d", 0.1)),
        "e": RawTensor("int64", (2,), pack("<2q", 2**40, 0)),
    },
    "every dtype": {
        dtype: RawTensor(dtype, (2,), bytes(size) + b"\1" + bytes(size - 1))
        for dtype, size in DTYPE_BYTES.items()
    },
    "single numbers and none": {
        "none": RawTensor("float32", (0, 3), b""),
        "single": RawTensor("int32", (), pack("<i", 7)),
    },
    # Escapes of JSON, and names whose UTF-8 order is not that of UTF-16.
    "names": {
        name: RawTensor("uint8", (1,), bytes([number]))
        for number, name in enumerate(['a"b', "back\\slash", "tab\t", "\x01", "/", "é", "\uff5e", "\U0001f697"])
    },
}  # fmt: skip
