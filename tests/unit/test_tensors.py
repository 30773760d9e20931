"""Tensor payloads: one form, read without a copy, everything else refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from safetensors.numpy import load, save

from tests.contract.tensor_samples import PAYLOADS
from workunits import arrays
from workunits.arrays import Arrays
from workunits.errors import ContractError, LimitExceeded, MalformedMessage, TensorsRefused
from workunits.wire import limits, tensors
from workunits.wire.messages import TensorSpec
from workunits.wire.tensors import Form, RawTensor

MOST = 1_000_000
ROWS_OF_TWO = (TensorSpec(name="x", dtype="float32", shape=(2,)),)


def test_bytes_are_those_of_the_safetensors_library() -> None:
    for name, sample in PAYLOADS.items():
        theirs = {key: array_of(tensor) for key, tensor in sample.items()}
        assert tensors.encode(sample) == save(theirs), name


def test_the_safetensors_library_reads_ours() -> None:
    for sample in PAYLOADS.values():
        theirs = load(tensors.encode(sample))
        assert {key: (a.shape, a.tobytes()) for key, a in theirs.items()} == {
            key: (t.shape, t.data) for key, t in sample.items()
        }


def test_what_was_encoded_is_decoded() -> None:
    for sample in PAYLOADS.values():
        decoded = tensors.decode(tensors.encode(sample), most=MOST)
        assert {n: (t.dtype, t.shape, bytes(t.data)) for n, t in decoded.items()} == {
            n: (t.dtype, t.shape, t.data) for n, t in sample.items()
        }


def test_the_order_given_does_not_matter() -> None:
    sample = PAYLOADS["order"]
    assert tensors.encode(dict(reversed(sample.items()))) == tensors.encode(sample)


def test_a_payload_can_be_streamed_from_its_forms() -> None:
    sample = PAYLOADS["every dtype"]
    forms = {name: Form(t.dtype, t.shape) for name, t in sample.items()}
    streamed = tensors.encode_header(forms)
    for name in tensors.in_order(forms):
        streamed += bytes(sample[name].data)
    assert streamed == tensors.encode(sample)


def test_decoding_gives_read_only_views_of_what_came() -> None:
    raw = bytearray(tensors.encode(PAYLOADS["one"]))
    view = tensors.decode(memoryview(raw), most=MOST)["x"].data
    raw[-1] ^= 0xFF
    assert isinstance(view, memoryview)
    assert view.readonly
    assert view[-1] == raw[-1]


def test_data_of_another_length_than_its_shape_is_a_bug() -> None:
    with pytest.raises(ValueError, match="'x'"):
        tensors.encode({"x": RawTensor("float32", (2,), bytes(7))})


# --- what is refused --------------------------------------------------------------------------------


def file(header: object, data: bytes = b"") -> bytes:
    """A safetensors file as another writer may make it; its header padded as it should be."""
    text = (
        header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    )
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


def entry(dtype: str, shape: list[int], start: int, end: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


F32 = entry("F32", [1], 0, 4)
REFUSED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "ends within"),
    "half a length": (b"\0\0\0", "ends within"),
    "cut in its header": (file({"x": F32}, bytes(4))[:40], "ends within"),
    "not JSON": (file(b"{x}"), "header"),
    "not UTF-8": (file(b'{"\xff":1}'), "header"),
    "a list": (file([1]), "header"),
    "deep": (file(b"[" * 5000), "header"),
    "an unknown field": (file({"x": {**F32, "z": 1}}, bytes(4)), "unknown field `z`"),
    "a missing field": (file({"x": {"dtype": "F32", "shape": [1]}}), "data_offsets"),
    "a negative axis": (file({"x": entry("F32", [-1], 0, 4)}, bytes(4)), "shape"),
    "a fraction": (file(b'{"x":{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}}'), "shape"),
    "a huge axis": (file({"x": entry("F32", [2**60], 0, 4)}, bytes(4)), "shape"),
    "axes past the data": (file({"x": entry("F32", [2**50] * 8, 0, 4)}, bytes(4)), "canonical"),
    "too many axes": (file({"x": entry("F32", [1] * 9, 0, 4)}, bytes(4)), "length <= 8"),
    "an unnamed tensor": (file({"": F32}, bytes(4)), "header"),
    "a long name": (file({"n" * 257: F32}, bytes(4)), "header"),
    "a dtype of others": (file({"x": entry("BF16", [2], 0, 4)}, bytes(4)), "'BF16'"),
    "metadata": (file({"__metadata__": {"a": "b"}, "x": F32}, bytes(4)), "header"),
    "a tensor called metadata": (file({"__metadata__": F32}, bytes(4)), "metadata"),
    "data missing": (file({"x": F32}, bytes(3)), "3 bytes of data, the header says 4"),
    "data too much": (file({"x": F32}, bytes(5)), "5 bytes of data, the header says 4"),
    "a gap": (file({"x": entry("F32", [1], 4, 8)}, bytes(8)), "canonical"),
    "an overlap": (file({"x": F32, "y": F32}, bytes(4)), "canonical"),
    "end before start": (file({"x": entry("F32", [1], 4, 0)}, bytes(4)), "canonical"),
    "names out of order": (
        file({"y": F32, "x": entry("F32", [1], 4, 8)}, bytes(8)), "canonical"),
    "a name twice": (file(b'{"x":' + json.dumps(F32).encode() + b',"x":'
                          + json.dumps(F32).encode() + b"}", bytes(4)), "canonical"),
    "spaces in JSON": (file(json.dumps({"x": F32}).encode(), bytes(4)), "canonical"),
    "fields out of order": (
        file({"x": {"shape": [1], "dtype": "F32", "data_offsets": [0, 4]}}, bytes(4)), "canonical"),
    "no padding": ((2).to_bytes(8, "little") + b"{}", "canonical"),
    "more padding": (file(b"{}" + b" " * 14), "canonical"),
    "padding of another kind": (file(b"{}" + b"\n" * 6), "canonical"),
    "a bool of two": (file({"x": entry("BOOL", [3], 0, 3)}, b"\0\1\2"), "neither 0 nor 1"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_any_other_form_is_refused(name: str) -> None:
    raw, says = REFUSED[name]
    with pytest.raises(MalformedMessage, match=says):
        tensors.decode(raw, most=MOST)


def test_limits_hold_before_parsing() -> None:
    raw = tensors.encode(PAYLOADS["one"])
    assert tensors.decode(raw, most=len(raw))
    with pytest.raises(LimitExceeded, match=f"at most {len(raw) - 1}"):
        tensors.decode(raw, most=len(raw) - 1)
    huge = (2**64 - 1).to_bytes(8, "little") + raw
    with pytest.raises(LimitExceeded, match="header of 18446744073709551615 bytes"):
        tensors.decode(huge, most=MOST)


def test_no_more_tensors_than_a_model_may_have() -> None:
    def named(count: int) -> bytes:
        return tensors.encode({f"{i:03}": RawTensor("bool", (0,), b"") for i in range(count)})

    assert len(tensors.decode(named(limits.TENSORS), most=MOST)) == limits.TENSORS
    with pytest.raises(LimitExceeded, match="65 tensors"):
        tensors.decode(named(limits.TENSORS + 1), most=MOST)


def test_the_largest_header_is_within_its_limit() -> None:
    shape = (limits.INTEGER,) * limits.DIMENSIONS
    forms = {
        f"{i:02}".ljust(limits.TENSOR_NAME_CHARS, "\x01"): Form("uint64", shape)
        for i in range(limits.TENSORS)
    }
    assert len(tensors.encode_header(forms)) - 8 <= limits.TENSOR_HEADER_BYTES


# --- whether they fit -------------------------------------------------------------------------------


def test_check_takes_what_the_specs_say() -> None:
    specs = (*ROWS_OF_TWO, TensorSpec(name="bank", dtype="int8", shape=(5,), scope="unit"))
    given = {"x": Form("float32", (3, 2)), "bank": Form("int8", (5,))}
    tensors.check(given, specs, 3)
    tensors.check(given, specs, None)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "'x' is missing"),
        ({"x": Form("float32", (3, 2)), "y": Form("int8", ())}, "'y' is not one of"),
        ({"x": Form("float64", (3, 2))}, "'x' is float64, not float32"),
        ({"x": Form("float32", (4, 2))}, r"shape \[4, 2\], not \[3, 2\]"),
        ({"x": Form("float32", (3, 1))}, r"shape \[3, 1\], not \[3, 2\]"),
        ({"x": Form("float32", (3, 2, 1))}, r"shape \[3, 2, 1\]"),
        ({"x": Form("float32", ())}, r"shape \[\], not \[3, 2\]"),
    ],
)
def test_check_says_which_tensor_does_not_fit(given: dict[str, Form], says: str) -> None:
    with pytest.raises(TensorsRefused, match=says):
        tensors.check(given, ROWS_OF_TWO, 3)


def test_check_without_rows_still_wants_an_axis_for_them() -> None:
    with pytest.raises(TensorsRefused, match=r"not \[rows, 2\]"):
        tensors.check({"x": Form("float32", ())}, ROWS_OF_TWO, None)


def test_a_shared_tensor_has_no_axis_for_rows() -> None:
    spec = TensorSpec(name="bank", dtype="int8", shape=(5,), scope="unit")
    with pytest.raises(TensorsRefused, match=r"shape \[3, 5\], not \[5\]"):
        tensors.check({"bank": Form("int8", (3, 5))}, (spec,), 3)


# --- as arrays --------------------------------------------------------------------------------------


def array_of(tensor: RawTensor) -> arrays.Array:
    dtype = arrays.NUMPY_DTYPES[tensor.dtype]
    return np.frombuffer(tensor.data, dtype).reshape(tensor.shape)


def test_arrays_come_back_as_they_went() -> None:
    given: Arrays = {"x": np.array([[1.5, np.nan], [-0.0, np.inf]], np.float32)}
    back = arrays.from_payload(arrays.to_payload(given), ROWS_OF_TWO, 2, most=MOST)
    assert back["x"].tobytes() == given["x"].tobytes()
    assert not back["x"].flags.writeable


MEMORY_ORDERS: dict[str, Callable[[arrays.Array], arrays.Array]] = {
    "fortran": np.asfortranarray,
    "every second": lambda a: np.repeat(a, 2, axis=0)[::2],
    "backwards": lambda a: a[::-1].copy()[::-1],
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
}


@pytest.mark.parametrize("order", MEMORY_ORDERS)
def test_how_an_array_lies_in_memory_does_not_matter(order: str) -> None:
    array = np.arange(6, dtype=np.float32).reshape(3, 2)
    assert arrays.to_payload({"x": MEMORY_ORDERS[order](array)}) == arrays.to_payload({"x": array})


@pytest.mark.parametrize("dtype", ["U3", "S3", "O", "complex64", "datetime64[s]", "longdouble"])
def test_what_does_not_travel_is_refused_by_name(dtype: str) -> None:
    with pytest.raises(TensorsRefused, match=r"'x': dtype .* does not travel"):
        arrays.to_payload({"x": np.zeros(2, dtype)})


def test_arrays_are_checked_against_the_specs() -> None:
    array = np.zeros((2, 2), np.float32)
    arrays.check({"x": array}, ROWS_OF_TWO, 2)
    for wrong in (array[:1], array.astype(np.float64), array.astype("U1")):
        with pytest.raises(TensorsRefused, match="'x'"):
            arrays.check({"x": wrong}, ROWS_OF_TWO, 2)
    raw = arrays.to_payload({"x": array.astype(np.float64)})
    with pytest.raises(ContractError, match="float64"):
        arrays.from_payload(raw, ROWS_OF_TWO, 2, most=MOST)
