"""A vehicle that follows a script: for trials, tests and the demo. Keeps the time for `script`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from tesla_at_home.adapters.vehicle.script import Playback, Script, parse
from tesla_at_home.errors import BadScript
from tesla_at_home.policy.signals import Heard
from tesla_at_home.ports import Clock


class ScriptedVehicle:
    """The port `VehicleSource` over a script."""

    def __init__(self, script: Script, clock: Clock, name: str) -> None:
        self._playback = Playback(script)
        self._calm_s = script.calm_s
        self._clock = clock
        self._name = name
        self._changed = threading.Condition()
        self._done = (0, 0)  # steps, units
        self._is_stopped = False
        self._thread: threading.Thread | None = None

    @property
    def calm_s(self) -> float | None:
        return self._calm_s

    def start(self, post: Callable[[Heard], None]) -> None:
        """See `ports.VehicleSource`."""
        began_s = self._clock.boot_s()
        post(self._playback.begin().heard(self._name, began_s))
        self._thread = threading.Thread(
            target=self._play, args=(post, began_s), name="scripted vehicle", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """See `ports.VehicleSource`."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def count(self, steps: int, units: int) -> None:
        """See `ports.VehicleSource`."""
        with self._changed:
            self._done = (steps, units)
            self._changed.notify_all()

    def _play(self, post: Callable[[Heard], None], began_s: float) -> None:
        while True:
            with self._changed:
                if self._is_stopped:
                    return
                steps, units = self._done
            now_s = self._clock.boot_s()
            for spoken in self._playback.advance(now_s - began_s, steps, units):
                post(spoken.heard(self._name, now_s))
            next_s = self._playback.next_s()
            with self._changed:
                if not self._is_stopped and self._done == (steps, units):
                    left_s = None if next_s is None else began_s + next_s - self._clock.boot_s()
                    self._changed.wait(None if left_s is None else max(0.0, left_s))


def read_script(path: Path) -> Script:
    """The script in a file.

    Raises:
        BadScript: no such file, or not a script.
    """
    try:
        return parse(path.read_text(encoding="utf-8"), path.name)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise BadScript(f"{path}: {reason}") from None
