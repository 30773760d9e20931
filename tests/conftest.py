"""What holds for every test: ONNX Runtime tells its maker nothing, and no test is about time."""

from __future__ import annotations

import os

from hypothesis import settings

from workunits import telemetry

os.environ.update(telemetry.OFF)

# A loaded machine is slow, not wrong; pytest's own limit ends what hangs.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
