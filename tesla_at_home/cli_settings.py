"""`config`, `network` and `vehicle`: the owner's settings, and what the computer sees."""

from __future__ import annotations

import queue
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from tesla_at_home.cli_shell import (
    directory_of,
    json_option,
    plain,
    print_json,
    print_table,
    say,
)
from tesla_at_home.errors import BadScript, BadSetting, ClientError, UnknownVehicle

if TYPE_CHECKING:
    from tesla_at_home.policy.signals import Belief, Heard, Readings
    from tesla_at_home.settings import Settings, Value

# Long enough for NetworkManager's three answers; a source that needs longer is shown as unknown.
_LISTEN_S: Final = 1.5
_HOME: Final = "network.home"


@click.group()
def config() -> None:
    """Read and change settings."""


@config.command("get")
@click.argument("name")
@json_option
@click.pass_context
def get(context: click.Context, name: str, as_json: bool) -> None:
    """Print one setting."""
    from tesla_at_home import settings
    from tesla_at_home.adapters import settings_file

    full = _full_name(name)
    value = settings.value(settings_file.read(directory_of(context)), full)
    if as_json:
        print_json({"name": full, "value": plain(value)})
    else:
        say(_shown(value))


@config.command("set", context_settings={"ignore_unknown_options": True})
@click.argument("name")
@click.argument("value")
@click.pass_context
def set_(context: click.Context, name: str, value: str) -> None:
    """Change one setting; a running agent takes it up at once."""
    from tesla_at_home import settings
    from tesla_at_home.adapters import settings_file
    from tesla_at_home.adapters.vehicle import sources

    directory, full = directory_of(context), _full_name(name)
    if full == _HOME:
        raise BadSetting(
            f"{full}: holds digests that nobody can type; while this computer is on the network: "
            "`tesla-at-home network trust-current`"
        )
    parsed = settings.parse(full, value)
    if full == "vehicle.sources" and isinstance(parsed, tuple):
        try:
            parsed = tuple(sources.check(spec) for spec in parsed)
        except (BadScript, UnknownVehicle) as error:
            raise BadSetting(f"{full}: {error}") from None
    changed = settings_file.change(directory, full, parsed)
    _reload(directory)
    say(f"{full} = {_shown(settings.value(changed, full))}")


@config.command("list")
@json_option
@click.pass_context
def list_(context: click.Context, as_json: bool) -> None:
    """Print all settings, with what they mean."""
    from tesla_at_home import settings
    from tesla_at_home.adapters import settings_file

    now = settings_file.read(directory_of(context))
    if as_json:
        print_json([_setting_object(now, each.name) for each in settings.every()])
        return
    rows = (
        (each.name, _shown(settings.value(now, each.name)), each.unit, each.help)
        for each in settings.every()
    )
    print_table(("setting", "value", "unit", "meaning"), rows)


@click.group()
def network() -> None:
    """Say which networks are home."""


@network.command("trust-current")
@click.option("--wired", is_flag=True, help="Also a wired connection, which this home alone has.")
@click.pass_context
def trust_current(context: click.Context, wired: bool) -> None:
    """Trust the network that this computer is on now as home."""
    from tesla_at_home.adapters import network as manager
    from tesla_at_home.adapters import settings_file

    directory = directory_of(context)
    found = manager.current()
    trusted = settings_file.read(directory).network.home
    if manager.is_trusted(found, trusted):
        say("This network is trusted as home already.")
        return
    kept = (*trusted, manager.trust(found, wired=wired))
    settings_file.change(directory, "network.home", kept)
    _reload(directory)
    say(f"This network is home now. Trusted networks: {len(kept)}.")


@click.group()
def vehicle() -> None:
    """What the sources say of the vehicle."""


@vehicle.command("show")
@json_option
@click.pass_context
def show(context: click.Context, as_json: bool) -> None:
    """Listen to the sources for a moment and print what they say."""
    from tesla_at_home.adapters import settings_file
    from tesla_at_home.adapters.clock import SystemClock
    from tesla_at_home.policy.signals import SIGNALS

    now = settings_file.read(directory_of(context))
    if not now.vehicle.sources:
        raise ClientError("no source is set; `tesla-at-home config set vehicle.sources SPEC`")
    readings = listen(now)
    at_s = SystemClock().boot_s()
    beliefs = {signal: readings.believe(signal, at_s) for signal in SIGNALS}
    if as_json:
        found: list[dict[str, object]] = [
            {"signal": signal, "value": belief.value, "sources": list(belief.sources),
             "is_not_applicable": belief.is_not_applicable, "why_unknown": belief.why_unknown}
            for signal, belief in beliefs.items()
        ]  # fmt: skip
        print_json(found)
        return
    rows = (_belief_row(signal, belief) for signal, belief in beliefs.items())
    print_table(("signal", "value", "said by", ""), rows)


def _belief_row(signal: str, belief: Belief) -> tuple[str, ...]:
    shown = "not needed" if belief.is_not_applicable else _shown(belief.value, "unknown")
    return signal.replace("_", " "), shown, ", ".join(belief.sources), belief.why_unknown or ""


def listen(now: Settings) -> Readings:
    """What the sources say within a moment."""
    from tesla_at_home.adapters.clock import SystemClock
    from tesla_at_home.adapters.vehicle import sources
    from tesla_at_home.policy.signals import SIGNALS, Readings

    posted: queue.Queue[Heard] = queue.Queue()
    try:
        source = sources.open_sources(now.vehicle.sources, SystemClock(), lambda: now.network.home)
    except (BadScript, UnknownVehicle) as error:
        raise BadSetting(f"vehicle.sources: {error}") from None
    source.start(posted.put)
    readings = Readings()
    try:
        while {each.signal for each in readings.last} < set(SIGNALS):
            readings = readings.heard(posted.get(timeout=_LISTEN_S))
    except queue.Empty:
        pass
    finally:
        source.stop()
    return readings


def _full_name(name: str) -> str:
    """`temperature` for `gate.temperature`, where that is the only one of the name."""
    from tesla_at_home import settings

    if "." in name:
        return name
    found = [each.name for each in settings.every() if each.name.split(".")[1] == name]
    return found[0] if len(found) == 1 else name


def _reload(directory: Path) -> None:
    """Have a running agent take the settings up."""
    from tesla_at_home.adapters import joining, orders
    from tesla_at_home.agent.events import Order

    if joining.membership(directory) is not None:
        orders.give(directory, Order(kind="reload"))


def _setting_object(now: Settings, name: str) -> dict[str, object]:
    from tesla_at_home import settings

    found = plain(settings.find(name))
    assert isinstance(found, dict)
    return found | {"value": plain(settings.value(now, name))}


def _shown(value: Value, nothing: str = "none") -> str:
    if value is None:
        return nothing
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(value) or "(empty)"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value) or "(empty)"
