"""Small ONNX models for tests, each with its tensors and random rows to feed it.

Every model's batch axis is called "rows"; the weights are drawn from a fixed seed, so the same call
gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from workunits.arrays import Array, Arrays
from workunits.trust import digests
from workunits.wire.messages import Dtype, ModelFacts, Program, TensorSpec

OPSET: Final = 17
IR_VERSION: Final = 8
BATCH_AXIS: Final = "rows"

_ONNX_DTYPES: Final[dict[Dtype, int]] = {
    "bool": TensorProto.BOOL, "int8": TensorProto.INT8, "uint8": TensorProto.UINT8,
    "int16": TensorProto.INT16, "uint16": TensorProto.UINT16, "float16": TensorProto.FLOAT16,
    "int32": TensorProto.INT32, "uint32": TensorProto.UINT32, "float32": TensorProto.FLOAT,
    "int64": TensorProto.INT64, "uint64": TensorProto.UINT64, "float64": TensorProto.DOUBLE,
}  # fmt: skip


@dataclass(frozen=True)
class Sample:
    """A model and what is known of it."""

    raw: bytes
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batch_rows: int | None = None

    def write(self, path: Path) -> Path:
        """The model as a file at `path`."""
        path.write_bytes(self.raw)
        return path

    def program(self, rows_per_step: int = 4) -> Program:
        """A program over this model that any ONNX Runtime of these years may run."""
        return Program(
            model=digests.plain(self.raw),
            inputs=self.inputs,
            outputs=self.outputs,
            rows_per_step=self.batch_rows or rows_per_step,
            optimisation="all",
            precision="fp32",
            runtime_from="1.20",
            runtime_below="2",
            kflop_per_row=1,
        )

    def facts(self, name: str = "sample") -> ModelFacts:
        """What vetting would say of it, but for the cost."""
        return ModelFacts(
            name=name,
            opset=OPSET,
            inputs=self.inputs,
            outputs=self.outputs,
            kflop_per_row=1,
            batch_rows=self.batch_rows,
            precision="fp32",
            is_portable_exact=False,
        )

    def draw(self, rows: int, seed: int = 0) -> Arrays:
        """Random inputs for `rows` rows; of scope unit as their spec says."""
        rng = np.random.default_rng(seed)
        return {spec.name: _draw(rng, spec, rows) for spec in self.inputs}


def mlp(features: int = 8, hidden: int = 16, classes: int = 4) -> Sample:
    """Two layers: `x` [features] to `scores` [classes] and `label` [] (their arg-max)."""
    rng = np.random.default_rng(1)
    return _sample(
        [
            helper.make_node("Gemm", ["x", "w1", "b1"], ["h"]),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("Gemm", ["r", "w2", "b2"], ["scores"]),
            helper.make_node("ArgMax", ["scores"], ["label"], axis=1, keepdims=0),
        ],
        inputs=(TensorSpec(name="x", dtype="float32", shape=(features,)),),
        outputs=(
            TensorSpec(name="scores", dtype="float32", shape=(classes,)),
            TensorSpec(name="label", dtype="int64", shape=()),
        ),
        weights={
            "w1": _normal(rng, features, hidden),
            "b1": _normal(rng, hidden),
            "w2": _normal(rng, hidden, classes),
            "b2": _normal(rng, classes),
        },
    )


def conv(channels: int = 3, side: int = 8) -> Sample:
    """A convolution and a mean over the picture: `image` [1, side, side] to `y` [channels]."""
    rng = np.random.default_rng(2)
    return _sample(
        [
            helper.make_node("Conv", ["image", "kernel"], ["c"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c"], ["r"]),
            helper.make_node("GlobalAveragePool", ["r"], ["p"]),
            helper.make_node("Flatten", ["p"], ["y"]),
        ],
        inputs=(TensorSpec(name="image", dtype="float32", shape=(1, side, side)),),
        outputs=(TensorSpec(name="y", dtype="float32", shape=(channels,)),),
        weights={"kernel": _normal(rng, channels, 1, 3, 3)},
    )


def identity(dtype: Dtype = "float32", width: int = 3) -> Sample:
    """`x` [width] comes out as `y` [width], bit for bit: NaN and infinities too."""
    return _sample(
        [helper.make_node("Identity", ["x"], ["y"])],
        inputs=(TensorSpec(name="x", dtype=dtype, shape=(width,)),),
        outputs=(TensorSpec(name="y", dtype=dtype, shape=(width,)),),
    )


def by_chance(width: int = 3) -> Sample:
    """Random numbers in the shape of `x` [width]: well formed, and on no allow-list."""
    return _sample(
        [helper.make_node("RandomNormalLike", ["x"], ["y"])],
        inputs=(TensorSpec(name="x", dtype="float32", shape=(width,)),),
        outputs=(TensorSpec(name="y", dtype="float32", shape=(width,)),),
    )


def logarithm(width: int = 3) -> Sample:
    """`y` = log `x`: NaN where a row is negative, -inf at zero."""
    return _sample(
        [helper.make_node("Log", ["x"], ["y"])],
        inputs=(TensorSpec(name="x", dtype="float32", shape=(width,)),),
        outputs=(TensorSpec(name="y", dtype="float32", shape=(width,)),),
    )


def mean(width: int = 101) -> Sample:
    """The mean of each row `x` [width]: a sum whose last bits could depend on memory alignment."""
    return _sample(
        [helper.make_node("ReduceMean", ["x"], ["y"], axes=[1], keepdims=0)],
        inputs=(TensorSpec(name="x", dtype="float32", shape=(width,)),),
        outputs=(TensorSpec(name="y", dtype="float32", shape=()),),
    )


def shared(width: int = 5, templates: int = 3) -> Sample:
    """Scores of each row `x` [width] against `bank` [width, templates], an input of scope unit."""
    return _sample(
        [helper.make_node("MatMul", ["x", "bank"], ["y"])],
        inputs=(
            TensorSpec(name="x", dtype="float32", shape=(width,)),
            TensorSpec(name="bank", dtype="float32", shape=(width, templates), scope="unit"),
        ),
        outputs=(TensorSpec(name="y", dtype="float32", shape=(templates,)),),
    )


def integers(width: int = 4) -> Sample:
    """Portable-exact: `y` = 3 `x` + 1 in int32, `even` a bool per element."""
    return _sample(
        [
            helper.make_node("Mul", ["x", "three"], ["t"]),
            helper.make_node("Add", ["t", "one"], ["y"]),
            helper.make_node("Mod", ["x", "two"], ["m"]),
            helper.make_node("Equal", ["m", "zero"], ["even"]),
        ],
        inputs=(TensorSpec(name="x", dtype="int32", shape=(width,)),),
        outputs=(
            TensorSpec(name="y", dtype="int32", shape=(width,)),
            TensorSpec(name="even", dtype="bool", shape=(width,)),
        ),
        weights={
            name: np.array([value], dtype=np.int32)
            for name, value in {"zero": 0, "one": 1, "two": 2, "three": 3}.items()
        },
    )


def fixed_batch(rows: int = 5, features: int = 8) -> Sample:
    """As `mlp` in little, but its batch axis is always `rows`."""
    rng = np.random.default_rng(3)
    return _sample(
        [helper.make_node("Gemm", ["x", "w"], ["h"]), helper.make_node("Tanh", ["h"], ["y"])],
        inputs=(TensorSpec(name="x", dtype="float32", shape=(features,)),),
        outputs=(TensorSpec(name="y", dtype="float32", shape=(2,)),),
        weights={"w": _normal(rng, features, 2)},
        batch_rows=rows,
    )


def gather(table: int = 4) -> Sample:
    """`y` = a table's entry at index `i`: a row whose index is past the table fails the run."""
    rng = np.random.default_rng(4)
    return _sample(
        [helper.make_node("Gather", ["table", "i"], ["y"])],
        inputs=(TensorSpec(name="i", dtype="int64", shape=()),),
        outputs=(TensorSpec(name="y", dtype="float32", shape=()),),
        weights={"table": _normal(rng, table)},
    )


def heavy(width: int = 512, layers: int = 64) -> Sample:
    """Many wide layers, so that a step takes a while: for stopping in the middle of one."""
    rng = np.random.default_rng(5)
    nodes = []
    for layer in range(layers):
        source = "x" if layer == 0 else f"h{layer}"
        target = "y" if layer == layers - 1 else f"h{layer + 1}"
        nodes += [
            helper.make_node("MatMul", [source, "w"], [f"m{layer}"]),
            helper.make_node("Tanh", [f"m{layer}"], [target]),
        ]
    return _sample(
        nodes,
        inputs=(TensorSpec(name="x", dtype="float32", shape=(width,)),),
        outputs=(TensorSpec(name="y", dtype="float32", shape=(width,)),),
        weights={"w": _normal(rng, width, width)},
    )


def memory_hog(width: int = 100_000) -> Sample:
    """The largest product of any two of `width` numbers for each row, through all of them at once."""
    one = np.ones((1, width), np.float32)
    return _sample(
        [
            helper.make_node("MatMul", ["x", "one"], ["wide"]),
            helper.make_node("Unsqueeze", ["wide", "last"], ["across"]),
            helper.make_node("Mul", ["across", "one"], ["square"]),
            helper.make_node("ReduceMax", ["square"], ["y"], axes=[1, 2], keepdims=0),
        ],
        inputs=(TensorSpec(name="x", dtype="float32", shape=(1,)),),
        outputs=(TensorSpec(name="y", dtype="float32", shape=()),),
        weights={"one": one, "last": np.array([2])},
    )


def _sample(
    nodes: Sequence[onnx.NodeProto],
    *,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    weights: dict[str, Array] | None = None,
    batch_rows: int | None = None,
) -> Sample:
    graph = helper.make_graph(
        list(nodes),
        "sample",
        [_value(spec, batch_rows) for spec in inputs],
        [_value(spec, batch_rows) for spec in outputs],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )
    onnx.checker.check_model(model, full_check=True)
    return Sample(model.SerializeToString(), inputs, outputs, batch_rows)


def _value(spec: TensorSpec, batch_rows: int | None) -> onnx.ValueInfoProto:
    lead: list[int | str] = [] if spec.scope == "unit" else [batch_rows or BATCH_AXIS]
    return helper.make_tensor_value_info(spec.name, _ONNX_DTYPES[spec.dtype], [*lead, *spec.shape])


def _normal(rng: np.random.Generator, *shape: int) -> Array:
    return (rng.normal(size=shape) / 4).astype(np.float32)


def _draw(rng: np.random.Generator, spec: TensorSpec, rows: int) -> Array:
    shape = spec.shape if spec.scope == "unit" else (rows, *spec.shape)
    if spec.dtype.startswith("float"):
        return rng.normal(size=shape).astype(spec.dtype)
    return rng.integers(0, 2, size=shape).astype(spec.dtype)
