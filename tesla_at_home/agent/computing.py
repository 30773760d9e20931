"""What is computed, when it is stopped, and when the computing process ends.

Decides from the gate and the units in hand. The child's steps are told by its frames; the spool, which
the driver keeps, is the truth about them.
"""

from __future__ import annotations

from typing import Final

from tesla_at_home.agent import patience
from tesla_at_home.agent.books import HeldUnit
from tesla_at_home.agent.commands import ContinueChild, Count, KillChild, RunUnit, StopChild
from tesla_at_home.agent.events import (
    ChildGone,
    ChildReady,
    StepDone,
    Tick,
    UnitDone,
    UnitFailed,
    UnitStarted,
)
from tesla_at_home.agent.state import Child, State, Tries
from tesla_at_home.policy.budget import learn
from workunits.errors import SpoolDamaged
from workunits.values import LeaseId
from workunits.wire import limits
from workunits.wire.messages import Runtime

# A process killed from outside says little of its unit: it is the first that the kernel ends when
# memory is short, whoever took it. Three times without a step between them is no accident any more,
# but no fault of the unit either: another vehicle may have it, and this one again.
KILLS_AT_MOST: Final = 3
# A computer that cannot start the process now is left alone for a while: nothing is the unit's fault.
START_FIRST_S: Final = 60.0
START_MOST_S: Final = 3600.0
# What one look counts of the time since the last one. The driver looks at least so often, so more is
# a computer that slept.
LOOK_S: Final = 30.0
# One slow core with kernels that nobody tuned; a step may take what its model costs on it.
SLOWEST_KFLOP_S: Final = 200_000.0


def gate_moved(state: State, was_open: bool) -> None:
    """Stop at once when the gate closed; go on when it opened."""
    if was_open == state.gate.is_open:
        return
    if was_open:
        state.closed_since_s = state.now.boot_s
        _close(state)
    else:
        state.closed_since_s = None
        _open(state)


def _close(state: State) -> None:
    view = state.gate.view()
    state.note("gate_closed", view.sentence, reason=view.reason)
    unit = state.in_child()
    if unit is None:
        return
    state.command(StopChild(unit.lease))
    _keep_progress(state, unit.lease)
    state.move(unit.lease, "gate_closed", view.sentence)
    state.note("unit_interrupted", view.sentence, lease=unit.lease, reason=view.reason)


def _open(state: State) -> None:
    state.note("gate_opened", "all conditions hold")
    unit = state.in_child()
    if unit is None:
        return
    state.move(unit.lease, "gate_opened", f"goes on behind step {state.progress}")
    state.note("unit_resumed", "goes on", lease=unit.lease, first_step=state.progress)
    state.command(ContinueChild(unit.lease))


def advance(state: State) -> None:
    """Begin the next unit, or end a process that was not needed for long enough."""
    _end_silent(state)
    unit = state.in_child()
    if unit is None and state.gate.is_open:
        _begin_next(state)
    _end_unneeded(state)


def _begin_next(state: State) -> None:
    ready = state.in_order(("ready",))
    if not ready or not state.is_due(state.starting.retry_s):
        return
    unit = ready[0]
    assert unit.facts is not None
    state.move(unit.lease, "started", "given to the computing process")
    if state.child is None or state.child.model != unit.facts.model:
        state.child = Child(unit.facts.model)
    state.child.idle_since_s = None
    state.progress, state.compute_ms = unit.steps_done, unit.compute_ms
    state.written_s = state.now.boot_s
    state.silent_s = state.rest_s = 0.0
    state.command(RunUnit(unit.lease))


def _end_silent(state: State) -> None:
    """End a step that does not end. The time in which it is stopped, or the computer sleeps, is its own."""
    passed_s, state.looked_s = state.now.boot_s - state.looked_s, state.now.boot_s
    unit = state.in_child()
    if unit is None or unit.state != "computing":
        return
    state.silent_s += min(passed_s, LOOK_S)
    most_s = _longest_step_s(state, unit)
    if state.silent_s > most_s + state.rest_s:
        detail = f"one step took longer than {most_s:.0f} s (work.longest_step_s)"
        _fail(state, unit.lease, "step_too_long", detail)


def _longest_step_s(state: State, unit: HeldUnit) -> float:
    assert unit.facts is not None
    kflop = unit.facts.kflop / max(1, unit.facts.steps)
    return max(state.settings.work.longest_step_s, kflop / SLOWEST_KFLOP_S)


def _end_unneeded(state: State) -> None:
    child = state.child
    if child is None:
        return
    since_s = state.closed_since_s if state.in_child() else child.idle_since_s
    if since_s is None or not state.is_due(since_s + state.settings.work.kill_after_s):
        return
    kill(state, "not needed for a while")


def kill(state: State, reason: str) -> None:
    """End the process; a unit in it is ready again, behind the steps in its spool."""
    unit = state.in_child()
    if unit is not None:
        _keep_progress(state, unit.lease)
        state.move(unit.lease, "child_gone", reason)
    if state.child is not None:
        state.child = None
        state.command(KillChild(reason))


def take_out(state: State, lease: LeaseId, reason: str) -> None:
    """Before unit `lease` ends otherwise: end the process if it is in it."""
    unit = state.in_child()
    if unit is not None and unit.lease == lease:
        _keep_progress(state, lease)
        state.child = None
        state.command(KillChild(reason))


def on_tick(state: State, event: Tick) -> None:
    if state.child is None or not event.most_bytes or event.child_bytes <= event.most_bytes:
        return
    unit = state.in_child()
    if unit is None:
        kill(state, "too much memory")
        return
    megabytes = event.most_bytes // limits.MIB
    _fail(state, unit.lease, "out_of_memory", f"needs more than {megabytes} MiB (limits.memory)")


def on_ready(state: State, event: ChildReady) -> None:
    if state.child is not None and is_in_child(state, event.lease):
        state.silent_s = 0.0
        state.starting = Tries()
        state.child.runtime = Runtime(
            onnxruntime=event.onnxruntime,
            provider=event.provider,
            machine=state.identity.machine,
        )


def on_started(state: State, event: UnitStarted) -> None:
    if not is_in_child(state, event.lease):
        return
    unit = state.units[event.lease]
    state.progress = event.first_step
    state.edit(event.lease, steps_done=event.first_step, starts=unit.starts + 1)
    if unit.starts:
        line = f"started again at step {event.first_step}"
        state.note("unit_resumed", line, lease=event.lease, first_step=event.first_step)
    else:
        state.note("unit_started", "started", lease=event.lease, first_step=event.first_step)


def on_step(state: State, event: StepDone) -> None:
    if not is_in_child(state, event.lease):
        return
    state.progress = event.step + 1
    state.compute_ms += event.took_ms
    state.silent_s = 0.0
    state.rest_s = event.took_ms / 1000 * (100.0 / state.settings.limits.duty - 1.0)
    state.steps_counted += 1
    state.command(Count(state.steps_counted, state.units_counted))
    if state.now.boot_s - state.written_s >= state.settings.work.checkpoint_s:
        _keep_progress(state, event.lease)


def on_done(state: State, event: UnitDone) -> None:
    if not is_in_child(state, event.lease) or state.child is None:
        return
    is_small = event.size <= limits.ATTACHMENT_BYTES
    state.move(
        event.lease,
        "finished" if is_small else "finished_large",
        f"computed, {event.size} bytes",
        outcome="done",
        output=event.output,
        output_size=event.size,
        runtime=state.child.runtime,
        compute_ms=state.compute_ms,
        steps_done=state.progress,
    )
    state.child.idle_since_s = state.now.boot_s
    took_s = state.compute_ms / 1000 * 100.0 / state.settings.limits.duty
    state.change_books(seconds_per_unit=learn(state.books.seconds_per_unit, took_s))
    state.note("unit_computed", f"computed in {took_s:.1f} s", lease=event.lease)
    patience.was_of_use(state)
    state.units_counted += 1
    state.command(Count(state.steps_counted, state.units_counted))


def on_failed(state: State, event: UnitFailed) -> None:
    if not is_in_child(state, event.lease):
        return
    if event.code == SpoolDamaged.code:
        # Not the unit's fault: it is set aside when the unit begins again.
        _begin_again(state, event.lease, "disk_damaged", event.detail)
        return
    _fail(state, event.lease, event.code, event.detail)


def on_gone(state: State, event: ChildGone) -> None:
    """A unit that ends its process has failed; one whose process was ended has not, or not yet."""
    unit = state.in_child()
    state.child = None
    detail = f"the computing process {event.detail}"
    if unit is None:
        return
    if event.cause == "crashed":
        _fail(state, unit.lease, "child_crashed", detail)
    elif event.cause == "killed":
        _begin_again(state, unit.lease, "child_killed", detail)
    else:
        state.starting.failed(state.now, first_s=START_FIRST_S, most_s=START_MOST_S)
        state.change_books(fault=f"{detail}; `tesla-at-home doctor` says what to do")
        _interrupt(state, unit.lease, detail)


def _begin_again(state: State, lease: LeaseId, code: str, detail: str) -> None:
    unit = state.units[lease]
    # Only more steps than ever before are progress, so that even endless kills come to an end.
    crashes = 1 if state.progress > unit.crashed_at else unit.crashes + 1
    state.edit(lease, crashed_at=max(unit.crashed_at, state.progress), crashes=crashes)
    if crashes >= KILLS_AT_MOST:
        give_back(state, lease, code, detail)
        patience.came_to_nothing(state)
    else:
        _interrupt(state, lease, detail)


def _interrupt(state: State, lease: LeaseId, detail: str) -> None:
    take_out(state, lease, detail)
    state.move(lease, "child_gone", detail)
    state.note("unit_interrupted", detail, lease=lease, reason="child_crashed")


def _fail(state: State, lease: LeaseId, code: str, detail: str) -> None:
    take_out(state, lease, detail)
    state.move(
        lease, "failed", detail, outcome="failed", code=code, detail=detail[: limits.TEXT_CHARS]
    )
    state.note("unit_failed", detail, lease=lease, reason=code)
    patience.came_to_nothing(state)


def give_back(state: State, lease: LeaseId, code: str, why: str) -> None:
    """The unit is not to be computed here: the next request returns it."""
    why = why[: limits.TEXT_CHARS]
    take_out(state, lease, why)
    state.move(lease, "returned", why, outcome="returned", code=code, detail=why)


def is_in_child(state: State, lease: LeaseId) -> bool:
    """False for the last words of a process that was ended meanwhile."""
    unit = state.in_child()
    return unit is not None and unit.lease == lease


def _keep_progress(state: State, lease: LeaseId) -> None:
    state.written_s = state.now.boot_s
    state.edit(lease, steps_done=state.progress, compute_ms=state.compute_ms)
