"""What `doctor` looks at, one check at a time: what is found, what it means, how to mend it.

Each check stands alone, so that one that fails hides none of the others. Changes nothing but for a
folder of its own, which it removes.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

from tesla_at_home.errors import NotJoined, TeslaAtHomeError
from tesla_at_home.settings import Settings
from workunits.errors import WorkunitsError
from workunits.wire.limits import MIB

State = Literal["ok", "warning", "fault"]

# A model, its inputs and the steps of a few units.
_FREE_BYTES: Final = 1024 * MIB
# A wall clock of more is a reason of the gate (`gate.clock_off_s`).
_CLOCK_OFF_S: Final = 300.0
# The smallest step of HTTP's Date, and the way there.
_CLOCK_UNSURE_S: Final = 5.0
_ANSWER_S: Final = 15.0
_SCRIPTED: Final = "scripted:"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; `mend` is empty where nothing is to be done."""

    what: str
    state: State
    detail: str
    mend: str = ""


def examine(directory: Path) -> Iterator[Finding]:
    """Everything, also after the first thing that is wrong."""
    if not directory.is_dir():
        yield from _guarded("project", _look_at_membership, directory)
        return
    for what, look in (
        ("project", _look_at_membership),
        ("consent", _look_at_consent),
        ("key", _look_at_key),
        ("settings", _look_at_settings),
        ("database", _look_at_database),
        ("disk", _look_at_disk),
        ("metadata", _look_at_metadata),
        ("server", _look_at_server),
        ("vehicle", _look_at_vehicle),
        ("computing", _look_at_computing),
    ):
        yield from _guarded(what, look, directory)
    yield _look_at_telemetry()


def _guarded(
    what: str, look: Callable[[Path], Iterator[Finding]], directory: Path
) -> Iterator[Finding]:
    """An error of ours is a finding, and its message says what to do."""
    try:
        yield from look(directory)
    except NotJoined as error:
        # Said once.
        if look is _look_at_membership:
            yield Finding(what, "fault", str(error))
    except (TeslaAtHomeError, WorkunitsError) as error:
        yield Finding(what, "fault", str(error))
    except sqlite3.Error as error:
        yield Finding(what, "fault", f"the database: {error}")
    except OSError as error:
        yield Finding(what, "fault", f"{error.filename or directory}: {error.strerror or error}")


# --- the directory ------------------------------------------------------------------------------


def _look_at_membership(directory: Path) -> Iterator[Finding]:
    from tesla_at_home.adapters import joining

    member = joining.expect_membership(directory)
    yield Finding("project", "ok", f"{member.vehicle_name} of {member.owner_name} at {member.url}")


def _look_at_consent(directory: Path) -> Iterator[Finding]:
    from tesla_at_home.adapters import joining

    if joining.has_consent(directory):
        yield Finding("consent", "ok", "given, and not ended")
    else:
        yield Finding(
            "consent", "fault", "there is none, so nothing is computed",
            "`tesla-at-home leave`, then join again",
        )  # fmt: skip


def _look_at_key(directory: Path) -> Iterator[Finding]:
    from tesla_at_home.adapters import keystore

    keystore.FileKeys.open(directory)
    path = directory / keystore.FILE_NAME
    if path.stat().st_mode & 0o077:
        yield Finding("key", "fault", f"others may read {path}", f"chmod 600 {path}")
    elif directory.stat().st_mode & 0o022:
        yield Finding("key", "fault", f"others may exchange {path}", f"chmod 700 {directory}")
    else:
        yield Finding("key", "ok", "readable for you alone")


def _look_at_settings(directory: Path) -> Iterator[Finding]:
    from tesla_at_home.adapters import settings_file

    settings_file.read(directory)
    yield Finding("settings", "ok", "each one is known and within its bounds")


def _look_at_database(directory: Path) -> Iterator[Finding]:
    from tesla_at_home.adapters.store import Store

    with Store.open(directory, is_writer=False) as store:
        store.check()
    yield Finding("database", "ok", "whole")


def _look_at_disk(directory: Path) -> Iterator[Finding]:
    with tempfile.TemporaryFile(dir=directory) as file:
        file.write(b"written by `tesla-at-home doctor`")
        file.flush()
        os.fsync(file.fileno())
    free = shutil.disk_usage(directory).free
    if free < _FREE_BYTES:
        yield Finding("disk", "warning", f"only {free // MIB} MiB are free", "make room")
    else:
        yield Finding("disk", "ok", f"can be written; {free // (1024 * MIB)} GiB are free")


# --- the project --------------------------------------------------------------------------------


def _look_at_metadata(directory: Path) -> Iterator[Finding]:
    from tesla_at_home.adapters import enrolment, joining
    from tesla_at_home.adapters.clock import SystemClock
    from tesla_at_home.adapters.metadata import TufMetadata

    member = joining.expect_membership(directory)
    client = TufMetadata(directory / joining.METADATA, enrolment.connect(member.url))
    if client.held(SystemClock().now_ms()).is_fresh:
        yield Finding("metadata", "ok", "signed and fresh")
    else:
        yield Finding(
            "metadata", "warning", "stale: what is held is finished, nothing new is taken",
            "`tesla-at-home run` fetches them when the project can be reached",
        )  # fmt: skip


def _look_at_server(directory: Path) -> Iterator[Finding]:
    from tesla_at_home.adapters import joining
    from tesla_at_home.adapters.enrolment import client_version
    from tesla_at_home.adapters.exchange import HttpLimits
    from tesla_at_home.adapters.transport import HttpTransport
    from tesla_at_home.errors import Unreachable

    url = joining.expect_membership(directory).url
    bounds = HttpLimits(connect_s=_ANSWER_S, stall_s=_ANSWER_S)
    try:
        transport = HttpTransport(url, user_agent=client_version(), bounds=bounds)
        server = transport.server_clock("/metadata/1.root.json")
    except Unreachable as error:
        mend = "look at the network of this computer; what is finished waits and is sent later"
        yield Finding("server", "fault", str(error), mend)
        return
    yield Finding("server", "ok", "answers")
    yield _compare_clocks(server, datetime.now(UTC))


def _compare_clocks(server: datetime | None, here: datetime) -> Finding:
    if server is None:
        return Finding("clock", "warning", "the server does not say what time it is")
    off_s = abs((here - server).total_seconds())
    if off_s > _CLOCK_OFF_S + _CLOCK_UNSURE_S:
        return Finding(
            "clock", "fault", f"differs from the server's by {off_s:.0f} s; the gate stays closed",
            "if this computer's is the wrong one: `sudo timedatectl set-ntp true`",
        )  # fmt: skip
    return Finding("clock", "ok", "agrees with the server's")


# --- the vehicle --------------------------------------------------------------------------------


def _look_at_vehicle(directory: Path) -> Iterator[Finding]:
    from tesla_at_home.adapters import settings_file
    from tesla_at_home.adapters.clock import SystemClock
    from tesla_at_home.cli_settings import listen
    from tesla_at_home.policy.signals import SIGNALS

    now = settings_file.read(directory)
    if not now.vehicle.sources:
        yield Finding(
            "vehicle", "fault", "no source is set, so the gate stays closed",
            "`tesla-at-home config set vehicle.sources linux:stationary`",
        )  # fmt: skip
        return
    readings, at_s = listen(now), SystemClock().boot_s()
    for signal in SIGNALS:
        belief = readings.believe(signal, at_s)
        name = signal.replace("_", " ")
        if belief.is_not_applicable:
            yield Finding(name, "ok", "not needed, by your word")
        elif belief.value is not None:
            yield Finding(name, "ok", f"said by {', '.join(belief.sources)}")
        else:
            yield _unknown(signal, belief.why_unknown or "no source speaks of it", now)
    yield _home(now)


def _unknown(signal: str, why: str, now: Settings) -> Finding:
    name = signal.replace("_", " ")
    if signal == "temperature_c":
        if now.gate.temperature is None:
            return Finding(name, "ok", "not watched (gate.temperature is none)")
        mend = "without a thermometer: `tesla-at-home config set gate.temperature none`"
        return Finding(name, "fault", f"unknown, so the gate stays closed: {why}", mend)
    mend = {
        "home_wifi": "NetworkManager tells the network; `tesla-at-home network trust-current`",
        "metered": "NetworkManager tells whether a connection is metered; is it running?",
    }.get(signal, "add a source that knows it: `tesla-at-home config set vehicle.sources ...`")
    return Finding(name, "fault", f"unknown, so the gate stays closed: {why}", mend)


def _home(now: Settings) -> Finding:
    if now.network.home:
        return Finding("home network", "ok", f"{len(now.network.home)} trusted")
    if all(spec.startswith(_SCRIPTED) for spec in now.vehicle.sources):
        return Finding("home network", "ok", "said by the script")
    return Finding(
        "home network", "warning", "none is trusted yet",
        "at home: `tesla-at-home network trust-current`",
    )  # fmt: skip


# --- the computing process ----------------------------------------------------------------------


def _look_at_computing(directory: Path) -> Iterator[Finding]:
    from tesla_at_home.adapters import settings_file
    from tesla_at_home.adapters.probe import probe
    from tesla_at_home.preparing import Preparing

    found = probe(directory, Preparing.memory_bytes(settings_file.read(directory)))
    if found.fault is not None:
        mend = "install the client anew, with the versions of its own list of dependencies"
        yield Finding("computing", "fault", found.fault, mend)
    else:
        with_what = f"on {found.provider} of ONNX Runtime {found.onnxruntime}"
        yield Finding("computing", "ok", f"computes {with_what}")
    for measure in found.measures:
        # One that is not in effect leaves the others: README says what it costs.
        state: State = "ok" if measure.holds else "warning"
        yield Finding(f"sandbox: {measure.name}", state, measure.detail)


def _look_at_telemetry() -> Finding:
    from tesla_at_home.adapters.child_process import environment
    from workunits import telemetry

    if telemetry.OFF.items() <= environment("/").items():
        return Finding("telemetry", "ok", "ONNX Runtime's is off")
    return Finding("telemetry", "fault", "ONNX Runtime's is on", "report this: it is a bug")
