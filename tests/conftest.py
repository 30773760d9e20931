"""What holds for every test: ONNX Runtime tells its maker nothing, whoever imports it first."""

from __future__ import annotations

import os

from workunits import telemetry

os.environ.update(telemetry.OFF)
