"""Hand-built ONNX graphs for the tests of `workunits.graphs`, in onnx's own text form.

`model` makes the bytes of a graph written in that form, so that a test shows what it is about.
`ALLOWED` are whole networks of the kinds people submit; each must pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from onnx import ModelProto, numpy_helper, parser

_NONE: Final[Mapping[str, tuple[int, ...]]] = {}
_HEAD: Final = '<ir_version: {ir}, opset_import: ["" : {opset}, "ai.onnx.ml" : 3]>\n'


Weights = Mapping[str, tuple[int, ...]]


def model(text: str, weights: Weights = _NONE, *, opset: int = 20, ir: int = 8) -> bytes:
    """The bytes of a graph, with float32 weights of these shapes as initialisers."""
    raw: bytes = proto(text, weights, opset=opset, ir=ir).SerializeToString()
    return raw


def proto(text: str, weights: Weights = _NONE, *, opset: int = 20, ir: int = 8) -> ModelProto:
    """As `model`, before it is made bytes."""
    made = parser.parse_model(_HEAD.format(ir=ir, opset=opset) + text)
    drawn = np.random.default_rng(7)
    for name, shape in weights.items():
        values = drawn.standard_normal(shape, dtype=np.float32) / 8
        drawn_values = np.abs(values) if name == "variance" else values
        made.graph.initializer.append(numpy_helper.from_array(drawn_values, name))
    return made


def conv_net() -> bytes:
    """Convolution, batch normalisation, pooling, a dense layer: images to scores."""
    return model(
        """net (float[N, 3, 16, 16] image) => (float[N, 10] scores) {
            c1 = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (image, w1, b1)
            n1 = BatchNormalization (c1, scale, shift, mean, variance)
            r1 = Relu (n1)
            p1 = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r1)
            c2 = Conv <kernel_shape = [3, 3], group = 2> (p1, w2)
            r2 = HardSwish (c2)
            g = GlobalAveragePool (r2)
            f = Flatten (g)
            d = Gemm <transB = 1> (f, w3, b3)
            scores = Softmax (d)
        }""",
        {
            "w1": (8, 3, 3, 3),
            "b1": (8,),
            "scale": (8,),
            "shift": (8,),
            "mean": (8,),
            "variance": (8,),
            "w2": (16, 4, 3, 3),
            "w3": (10, 16),
            "b3": (10,),
        },
    )


def transformer() -> bytes:
    """One block as PyTorch exports it: shapes are computed in the graph, heads are split off."""
    return model(
        """block (float[N, 12, 32] x) => (float[N, 12, 32] y) {
            s = Shape (x)
            zero = Constant <value = int64 {0}> ()
            n = Gather (s, zero)
            axis = Constant <value = int64[1] {0}> ()
            n1 = Unsqueeze (n, axis)
            tail = Constant <value = int64[3] {12, 4, 8}> ()
            split = Concat <axis = 0> (n1, tail)
            flat = Constant <value = int64[3] {0, 0, 32}> ()
            h = LayerNormalization <axis = -1> (x, gain, shift)
            q0 = MatMul (h, wq)
            k0 = MatMul (h, wk)
            v0 = MatMul (h, wv)
            q1 = Reshape (q0, split)
            k1 = Reshape (k0, split)
            v1 = Reshape (v0, split)
            q = Transpose <perm = [0, 2, 1, 3]> (q1)
            k = Transpose <perm = [0, 2, 3, 1]> (k1)
            v = Transpose <perm = [0, 2, 1, 3]> (v1)
            a0 = MatMul (q, k)
            width = Constant <value = float {2.828427}> ()
            a1 = Div (a0, width)
            a = Softmax <axis = -1> (a1)
            o0 = MatMul (a, v)
            o1 = Transpose <perm = [0, 2, 1, 3]> (o0)
            o2 = Reshape (o1, flat)
            o = MatMul (o2, wo)
            x1 = Add (x, o)
            f0 = MatMul (x1, w1)
            f1 = Gelu (f0)
            f2 = Erf (f1)
            f = MatMul (f2, w2)
            y = Add (x1, f)
        }""",
        {
            "gain": (32,),
            "shift": (32,),
            "wq": (32, 32),
            "wk": (32, 32),
            "wv": (32, 32),
            "wo": (32, 32),
            "w1": (32, 64),
            "w2": (64, 32),
        },
    )


def static_int8() -> bytes:
    """A dense layer as static quantisation leaves it: weights in int8, QuantizeLinear around."""
    return model(
        """qdq (float[N, 16] x) => (float[N, 4] y) <
            float scale = {0.05}, int8 zero = {0}, int8[16, 4] w = {
                1,2,3,4, 5,6,7,8, 9,10,11,12, 13,14,15,16, 1,2,3,4, 5,6,7,8, 9,10,11,12, 13,14,15,16,
                1,2,3,4, 5,6,7,8, 9,10,11,12, 13,14,15,16, 1,2,3,4, 5,6,7,8, 9,10,11,12, 13,14,15,16}
        > {
            q = QuantizeLinear (x, scale, zero)
            d = DequantizeLinear (q, scale, zero)
            dw = DequantizeLinear (w, scale, zero)
            y = MatMul (d, dw)
        }"""
    )


def loop(trips: int = 50, *, body: str = "a = Mul (x_in, step)\n x_out = Add (x_in, a)") -> bytes:
    """A state of eight numbers a row, taken through `trips` trips of a Loop."""
    return model(
        f"""walk (float[N, 8] x) => (float[N, 8] y) <
            int64 trips = {{{trips}}}, float step = {{0.01}}
        > {{
            y = Loop (trips, , x) <body = trip (int64 i, bool goes, float[n, 8] x_in)
                => (bool goes_on, float[n, 8] x_out) {{
                    goes_on = Identity (goes)
                    {body}
            }}>
        }}"""
    )


def portable_exact() -> bytes:
    """A hash, a tree of additions and a search: nothing that a kernel may reorder."""
    return model(
        """search (uint32[N, 4] seed, float[N, 8] power) => (float[N, 2] best, int64[N, 2] at,
                                                            uint32[N, 4] hash)
        <uint32 prime = {2654435761}, uint32 bits = {16}, int64[1] two = {2}> {
            m = Mul (seed, prime)
            s = BitShift <direction = "RIGHT"> (m, bits)
            hash = BitwiseXor (m, s)
            a, b = Split <axis = 1, num_outputs = 2> (power)
            sum = Add (a, b)
            root = Sqrt (sum)
            best, at = TopK <axis = 1> (root, two)
        }"""
    )


def recurrent() -> bytes:
    """An LSTM over a series, time first, and a score from its last state."""
    return model(
        """series (float[N, 6, 3] x) => (float[N, 2] y) {
            t = Transpose <perm = [1, 0, 2]> (x)
            all, h, c = LSTM <hidden_size = 5> (t, w, r)
            last = Constant <value = int64[1] {0}> ()
            s = Squeeze (h, last)
            y = MatMul (s, wy)
        }""",
        {"w": (1, 20, 3), "r": (1, 20, 5), "wy": (5, 2)},
    )


ALLOWED: Final = {
    "conv_net": conv_net,
    "transformer": transformer,
    "static_int8": static_int8,
    "loop": loop,
    "portable_exact": portable_exact,
    "recurrent": recurrent,
}
