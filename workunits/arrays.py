"""Tensor payloads as numpy arrays and back; nothing is converted silently.

The bytes and their form are `wire.tensors`' business. Arrays read from a payload are views of it and
cannot be written to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from workunits.errors import TensorsRefused
from workunits.wire import tensors
from workunits.wire.messages import Dtype, TensorSpec

# Elements of any dtype: which one it must be is said by a `TensorSpec`, at run time.
Array: TypeAlias = npt.NDArray[np.generic]
Arrays: TypeAlias = dict[str, Array]

NUMPY_DTYPES: Final[dict[Dtype, np.dtype[np.generic]]] = {
    name: np.dtype(name).newbyteorder("<") for name in get_args(Dtype)
}


def dtype_of(array: Array) -> Dtype:
    """The contract's name of the array's dtype, in whatever byte order it lies in memory.

    Raises:
        TensorsRefused: it is text, an object, complex or another dtype that does not travel.
    """
    for name, dtype in NUMPY_DTYPES.items():
        if array.dtype.newbyteorder("<") == dtype:
            return name
    raise TensorsRefused(
        f"dtype {array.dtype} does not travel; use one of {', '.join(NUMPY_DTYPES)}"
    )


def to_payload(arrays: Mapping[str, Array]) -> bytes:
    """The tensor payload of these arrays.

    Raises:
        TensorsRefused: an array has a dtype that does not travel.
    """
    return tensors.encode({name: _raw(name, array) for name, array in arrays.items()})


def from_payload(
    raw: tensors.Buffer, specs: Sequence[TensorSpec], rows: int | None, *, most: int
) -> Arrays:
    """The arrays in a payload that must hold exactly `specs`, with `rows` rows (None: any number).

    Raises:
        LimitExceeded, MalformedMessage: see `tensors.decode`.
        TensorsRefused: other names, dtypes or shapes.
    """
    decoded = tensors.decode(raw, most=most)
    tensors.check(decoded, specs, rows)
    return {name: _view(tensor) for name, tensor in decoded.items()}


def check(arrays: Mapping[str, Array], specs: Sequence[TensorSpec], rows: int | None) -> None:
    """Raise `TensorsRefused` unless these are exactly the arrays of `specs`, see `tensors.check`."""
    forms = {name: _form(name, array) for name, array in arrays.items()}
    tensors.check(forms, specs, rows)


def _form(name: str, array: Array) -> tensors.Form:
    try:
        return tensors.Form(dtype_of(array), array.shape)
    except TensorsRefused as error:
        raise TensorsRefused(f"tensor {name!r}: {error}") from None


def _raw(name: str, array: Array) -> tensors.RawTensor:
    form = _form(name, array)
    # `ascontiguousarray` would give a single number an axis.
    ordered = np.asarray(array, dtype=NUMPY_DTYPES[form.dtype], order="C")
    return tensors.RawTensor(form.dtype, form.shape, ordered.tobytes())


def _view(tensor: tensors.RawTensor) -> Array:
    flat = np.frombuffer(tensor.data, dtype=NUMPY_DTYPES[tensor.dtype])
    return flat.reshape(tensor.shape)


def join(parts: Sequence[Mapping[str, Array]]) -> Arrays:
    """Runs of rows of the same tensors, one after the other; at least one part."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
