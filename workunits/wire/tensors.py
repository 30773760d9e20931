"""Tensor payloads as bytes: safetensors in one canonical form, without numpy (PROTOCOL 6.5).

The same tensors always give the same bytes, and no other bytes are taken for them: the header is the
one the safetensors library writes (widest dtype first, then by name; no metadata; padded with spaces
to 8 bytes), so that each tensor lies at a multiple of its element's size. What the tensors mean, and
whether they fit a program, is `check`'s question; numbers are the business of `workunits.arrays`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Annotated, Final, NamedTuple, TypeAlias

import msgspec

from workunits.errors import LimitExceeded, MalformedMessage, TensorsRefused
from workunits.wire import codec, limits
from workunits.wire.messages import Count, Dtype, TensorName, TensorSpec

Buffer: TypeAlias = bytes | memoryview

DTYPE_BYTES: Final[dict[Dtype, int]] = {
    "bool": 1, "int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "float16": 2,
    "int32": 4, "uint32": 4, "float32": 4, "int64": 8, "uint64": 8, "float64": 8,
}  # fmt: skip

_LENGTH_BYTES: Final = 8
_ALIGNMENT: Final = 8
_METADATA: Final = "__metadata__"

# In the order in which the safetensors library lays them out.
_CODES: Final[dict[Dtype, str]] = {
    "uint64": "U64", "int64": "I64", "float64": "F64",
    "float32": "F32", "uint32": "U32", "int32": "I32",
    "float16": "F16", "uint16": "U16", "int16": "I16",
    "int8": "I8", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip
_DTYPES: Final[dict[str, Dtype]] = {code: dtype for dtype, code in _CODES.items()}
_PLACE: Final[dict[Dtype, int]] = {dtype: place for place, dtype in enumerate(_CODES)}


class Form(NamedTuple):
    """What a tensor looks like, without its numbers."""

    dtype: Dtype
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes of its numbers."""
        return prod(self.shape) * DTYPE_BYTES[self.dtype]


@dataclass(frozen=True, slots=True)
class RawTensor:
    """A tensor as it travels: little-endian, C order."""

    dtype: Dtype
    shape: tuple[int, ...]
    data: Buffer


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    dtype: str
    shape: Annotated[tuple[Count, ...], msgspec.Meta(max_length=limits.DIMENSIONS)]
    data_offsets: tuple[Count, Count]


_decoder = msgspec.json.Decoder(dict[TensorName, _Entry])


def encode(tensors: Mapping[str, RawTensor]) -> bytes:
    """The payload of these tensors; a pure function of names, dtypes, shapes and data."""
    forms = {name: Form(tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
    for name, form in forms.items():
        if memoryview(tensors[name].data).nbytes != form.size:
            raise ValueError(f"tensor {name!r}: data of another length than its shape")
    return b"".join([encode_header(forms), *(tensors[name].data for name in in_order(forms))])


def in_order(forms: Mapping[str, Form]) -> list[str]:
    """The names in the order in which their data follows the header."""
    return sorted(forms, key=lambda name: (_PLACE[forms[name].dtype], name))


def encode_header(forms: Mapping[str, Form]) -> bytes:
    """What stands before the data, so that a large payload can be streamed `in_order`."""
    entries = {}
    end = 0
    for name in in_order(forms):
        start, end = end, end + forms[name].size
        entries[name] = _Entry(_CODES[forms[name].dtype], forms[name].shape, (start, end))
    text = msgspec.json.encode(entries)
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text


def payload_bytes(specs: Sequence[TensorSpec], rows: int) -> int:
    """How long the payload of exactly these tensors is; there is one form only, so one length."""
    forms = {
        spec.name: Form(spec.dtype, spec.shape if spec.scope == "unit" else (rows, *spec.shape))
        for spec in specs
    }
    return len(encode_header(forms)) + sum(form.size for form in forms.values())


def decode(raw: Buffer, *, most: int) -> dict[str, RawTensor]:
    """The tensors in `raw`, in its order, as read-only views without a copy.

    Raises:
        LimitExceeded: more than `most` bytes, or more or larger tensors than the contract knows.
        MalformedMessage: anything else but the canonical form.
    """
    whole = memoryview(raw).toreadonly()
    if len(whole) > most:
        raise LimitExceeded(f"tensor payload: {len(whole)} bytes, at most {most}")
    forms, start = _decode_header(whole)
    _check_length(forms.values(), len(whole) - start)
    tensors = {}
    for name, form in forms.items():
        data = whole[start : start + form.size]
        start += form.size
        _check_truth(name, form, data)
        tensors[name] = RawTensor(form.dtype, form.shape, data)
    return tensors


def check(
    tensors: Mapping[str, RawTensor | Form], specs: Sequence[TensorSpec], rows: int | None
) -> None:
    """Raise `TensorsRefused` unless these are exactly the tensors of `specs`.

    A tensor of scope row has the shape [rows, *spec.shape]; with `rows` None any number of rows will
    do. One of scope unit has the shape of its spec.
    """
    _check_names(tensors, specs)
    for spec in specs:
        tensor = tensors[spec.name]
        if tensor.dtype != spec.dtype:
            raise TensorsRefused(f"tensor {spec.name!r} is {tensor.dtype}, not {spec.dtype}")
        if not _fits(tensor.shape, spec, rows):
            raise TensorsRefused(
                f"tensor {spec.name!r} has shape {list(tensor.shape)}, not {_wanted(spec, rows)}"
            )


def _decode_header(whole: memoryview) -> tuple[dict[str, Form], int]:
    length = int.from_bytes(whole[:_LENGTH_BYTES], "little")
    start = _LENGTH_BYTES + length
    if length > limits.TENSOR_HEADER_BYTES:
        raise LimitExceeded(
            f"tensor payload: header of {length} bytes, at most {limits.TENSOR_HEADER_BYTES}"
        )
    if len(whole) < max(start, _LENGTH_BYTES):
        raise MalformedMessage("tensor payload: ends within its header")
    forms = _read_forms(bytes(whole[_LENGTH_BYTES:start]))
    # One form only: whoever reads, digests or compares payloads need not think of any other.
    if encode_header(forms) != whole[:start]:
        raise MalformedMessage(
            "tensor payload: header not in canonical form (order, offsets, spacing or padding)"
        )
    return forms, start


def _read_forms(text: bytes) -> dict[str, Form]:
    try:
        entries = _decoder.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedMessage(f"tensor payload: header: {codec.in_one_line(error)}") from None
    if len(entries) > limits.TENSORS:
        raise LimitExceeded(f"tensor payload: {len(entries)} tensors, at most {limits.TENSORS}")
    return {name: _form(name, entry) for name, entry in entries.items()}


def _form(name: str, entry: _Entry) -> Form:
    if name == _METADATA:
        raise MalformedMessage("tensor payload: metadata is not allowed")
    if entry.dtype not in _DTYPES:
        raise MalformedMessage(f"tensor {name!r}: dtype {entry.dtype!r} is not in the contract")
    return Form(_DTYPES[entry.dtype], entry.shape)


def _check_length(forms: Iterable[Form], data_bytes: int) -> None:
    wanted = sum(form.size for form in forms)
    if wanted != data_bytes:
        raise MalformedMessage(
            f"tensor payload: {data_bytes} bytes of data, the header says {wanted}"
        )


def _check_truth(name: str, form: Form, data: memoryview) -> None:
    # Numpy and ONNX Runtime may do anything with a bool that is neither 0 nor 1.
    if form.dtype == "bool" and bytes(data).translate(None, b"\0\1"):
        raise MalformedMessage(f"tensor {name!r}: a bool that is neither 0 nor 1")


def _check_names(tensors: Mapping[str, RawTensor | Form], specs: Sequence[TensorSpec]) -> None:
    wanted = {spec.name for spec in specs}
    missing = sorted(wanted - tensors.keys())
    unknown = sorted(tensors.keys() - wanted)
    if missing:
        raise TensorsRefused(f"tensor {missing[0]!r} is missing; there are {sorted(tensors)}")
    if unknown:
        raise TensorsRefused(f"tensor {unknown[0]!r} is not one of {sorted(wanted)}")


def _fits(shape: tuple[int, ...], spec: TensorSpec, rows: int | None) -> bool:
    if spec.scope == "unit":
        return shape == spec.shape
    return len(shape) > 0 and shape[1:] == spec.shape and rows in (None, shape[0])


def _wanted(spec: TensorSpec, rows: int | None) -> str:
    if spec.scope == "unit":
        return str(list(spec.shape))
    return "[" + ", ".join(["rows" if rows is None else str(rows), *map(str, spec.shape)]) + "]"
