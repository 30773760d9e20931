"""The demo's model and data: UCI handwritten digits, bundled with scikit-learn, and a small network.

The network is wide for its task on purpose: a unit should be worth measuring. It is trained on every
second image, so that the other half shows what it really learned.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

HIDDEN_LAYERS = (2048, 2048)
# Five passes reach about 0.96; more would only make the demo slower.
TRAINING_PASSES = 5


@dataclass(frozen=True)
class Digits:
    """1,797 images of 64 grey values (float32, 0 to 1) and what they show."""

    images: NDArray[np.float32]
    labels: NDArray[np.int64]

    @property
    def was_trained_on(self) -> NDArray[np.bool_]:
        return np.asarray(np.arange(len(self.labels)) % 2 == 0)


def load() -> Digits:
    """The bundled data set, in its own order."""
    from sklearn.datasets import load_digits

    bundle = load_digits()
    return Digits(
        images=(bundle.data / 16).astype(np.float32), labels=bundle.target.astype(np.int64)
    )


def train_and_export(digits: Digits, to: Path) -> None:
    """Train on every second image and write the network as ONNX, tensors only."""
    import warnings

    from skl2onnx import to_onnx
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    known = digits.was_trained_on
    network = MLPClassifier(HIDDEN_LAYERS, max_iter=TRAINING_PASSES, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        network.fit(digits.images[known], digits.labels[known])
    graph = to_onnx(network, digits.images[:1], options={"zipmap": False}, target_opset=18)
    to.write_bytes(graph.SerializeToString())
