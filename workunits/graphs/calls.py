"""What is known of one call of an operator: the tensors in and out, and its attributes.

Values only. Shapes here are always whole numbers: a graph is looked at with a definite number of
rows (`inference`), never with an unknown one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Final, TypeAlias

import numpy as np
from onnx import AttributeProto

from workunits.program import DTYPE_BYTES, FLOAT_DTYPES
from workunits.wire.messages import Dtype

Array: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.generic]]

ML: Final = "ai.onnx.ml"


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of the graph; `value` is kept where it is constant and small, such as a shape."""

    dtype: Dtype
    shape: tuple[int, ...]
    value: Array | None = None

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.size * DTYPE_BYTES[self.dtype]

    @property
    def is_float(self) -> bool:
        return self.dtype in FLOAT_DTYPES

    def integers(self) -> tuple[int, ...] | None:
        """The value as whole numbers; None if it is not known."""
        return None if self.value is None else tuple(int(x) for x in self.value.reshape(-1))


@dataclass(frozen=True, slots=True)
class Call:
    """One node with the shapes it is called with; `times` is more than 1 inside loops."""

    op: str  # "MatMul", or "ai.onnx.ml.Scaler"
    where: str  # for people: the node's name or number, and its operator
    opset: int  # version of the operator's domain
    attributes: Mapping[str, AttributeProto]
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor | None, ...]
    times: int = 1

    def input(self, position: int) -> Tensor | None:
        """The input, or None where an optional one is left out."""
        return self.inputs[position] if position < len(self.inputs) else None

    @property
    def first(self) -> Tensor:
        """The first input; operators that have none do not ask."""
        tensor = self.inputs[0]
        if tensor is None:
            raise ValueError("the first input is missing")
        return tensor

    @property
    def result(self) -> Tensor:
        """The first output that is wanted."""
        return next(tensor for tensor in self.outputs if tensor is not None)

    @property
    def largest(self) -> int:
        """Elements of the largest output: of a classifier, its scores."""
        return max(tensor.size for tensor in self.outputs if tensor is not None)

    def integer(self, name: str, default: int) -> int:
        return int(self.attributes[name].i) if name in self.attributes else default

    def integers(self, name: str) -> tuple[int, ...]:
        return tuple(self.attributes[name].ints) if name in self.attributes else ()

    def text(self, name: str, default: str) -> str:
        if name not in self.attributes:
            return default
        return self.attributes[name].s.decode("utf-8", "replace")

    def length(self, *names: str) -> int:
        """Elements of the first of these list attributes that is not empty."""
        for name in names:
            if name in self.attributes:
                found = self.attributes[name]
                count = len(found.ints) or len(found.floats) or len(found.strings)
                if count:
                    return count
        return 0
