"""What ONNX Runtime must find in its environment before it is loaded, so that it tells nobody.

Its builds of 1.32 and newer write an identifier of the computer and a log of every session below
~/.cache/Microsoft and send them to their maker, from the moment of the import. Its own
`disable_telemetry_events` comes too late: by then both files are there. Decides nothing else.
"""

from __future__ import annotations

from typing import Final

# Any other value, and "0" too, turns it on again; so this replaces what the environment says.
OFF: Final = {"ORT_DISABLE_TELEMETRY": "1"}
