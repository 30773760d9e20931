"""The parts of the soak: what each is called, and its faults counted by kind in plain words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

from tests.faults import server_disk_play, storms, test_agent_every_write, test_restored_world
from tests.soak import kills
from tests.support import fuzzing

Part = Callable[[float, int], Counter[str]]


def link(seconds: float, seed: int) -> Counter[str]:
    """Losses, cuts, doubles and kills on the way between real agents and a real project."""
    found = storms.run(seconds, seed)
    return Counter({"faults of the link": found.injected, "worlds checked": found.worlds})


def vehicle_disk(seconds: float, seed: int) -> Counter[str]:
    """Failed, torn and short writes and power cuts below a vehicle."""
    found = test_agent_every_write.run(seconds, seed)
    return Counter(
        {
            "faults of a vehicle's disk": _number(found, "faults"),
            "lives of a vehicle checked": _number(found, "lives"),
        }
    )


def project_disk(seconds: float, seed: int) -> Counter[str]:
    """The same below the project's database and blobs."""
    found = server_disk_play.run(seconds, seed)
    return Counter(
        {
            "faults of the project's disk": found["faults"],
            "power cuts of the project": found["power cuts"],
            "stored answers compared with their repetition": found["answers repeated"],
        }
    )


def strangers(seconds: float, seed: int) -> Counter[str]:
    """Damaged bytes at everything that reads a stranger's."""
    return Counter(fuzzing.run(seconds, seed))


KILLS: Final = "kills"
PARTS: Final[dict[str, Part]] = {
    KILLS: kills.run,
    "link": link,
    "vehicle's disk": vehicle_disk,
    "project's disk": project_disk,
    "copies": test_restored_world.run,
    "strangers": strangers,
}


def _number(found: dict[str, object], name: str) -> int:
    number = found[name]
    assert isinstance(number, int)
    return number
