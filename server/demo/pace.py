"""How long one step of the demo's model takes here: `python -m server.demo.pace MODEL` prints seconds.

A process of its own, as all that runs models is; built on `workunits` alone.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from workunits import arrays, execution
from workunits.trust import digests
from workunits.wire.messages import Program, TensorSpec
from workunits.wire.tensors import RawTensor, encode

ROWS_PER_STEP = 8
STEPS = 20
IMAGE = TensorSpec(name="X", dtype="float32", shape=(64,))
LABEL = TensorSpec(name="label", dtype="int64", shape=())
SCORES = TensorSpec(name="probabilities", dtype="float32", shape=(10,))


def program(model: bytes) -> Program:
    """The demo's program, without what only a batch knows."""
    return Program(
        model=digests.plain(model),
        inputs=(IMAGE,),
        outputs=(LABEL, SCORES),
        rows_per_step=ROWS_PER_STEP,
        optimisation="all",
        precision="fp32",
        runtime_from="1.0.0",
        runtime_below="999",
        kflop_per_row=1,
    )


def main() -> None:
    path = Path(sys.argv[1])
    loaded = execution.Loaded.open(path, program(path.read_bytes()))
    rows = ROWS_PER_STEP * STEPS
    dark = encode({IMAGE.name: RawTensor(IMAGE.dtype, (rows, 64), bytes(4 * 64 * rows))})
    images = arrays.from_payload(dark, [IMAGE], rows, most=len(dark))
    execution.run(loaded, images, rows)  # the first calls warm up
    began = time.perf_counter()
    execution.run(loaded, images, rows)
    print((time.perf_counter() - began) / STEPS)


if __name__ == "__main__":
    main()
