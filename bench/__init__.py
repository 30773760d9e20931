"""Measurements: the numbers the design is held to, each beside its target and its floor."""

import os

from workunits import telemetry

# Some import ONNX Runtime themselves, before `workunits.execution` could say so.
os.environ.update(telemetry.OFF)
