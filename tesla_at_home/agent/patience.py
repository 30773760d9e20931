"""How often a project is asked for work that comes to nothing: less and less.

No work, leases that do not check out, files that are not there, units that fail: all of them are the
same to the vehicle, and only a unit that was computed ends the waiting. So a project without measure,
honest or not, costs neither link nor computer for long (PROTOCOL 8.13).
"""

from __future__ import annotations

from typing import Final

from tesla_at_home.agent.books import SavedRequest
from tesla_at_home.agent.state import State
from tesla_at_home.policy.backoff import delay_s
from workunits.wire.messages import Reply

# The code with which a lease beyond the wish is returned.
NOT_ASKED_FOR: Final = "not_asked_for"


def no_work(state: State, at_least_s: float = 0.0) -> None:
    """Wait longer each time before work is asked for again."""
    network = state.settings.network
    state.replies_without_work += 1
    wait_s = delay_s(
        state.replies_without_work,
        first_s=network.no_work_first_s,
        most_s=network.no_work_most_s,
        draw=state.now.draw,
        at_least_s=at_least_s,
    )
    state.work_at_s = state.now.boot_s + max(wait_s, network.min_wait_s)


def some_work(state: State) -> None:
    """There is some again; who was disappointed believes it only of a unit that was computed."""
    if not state.is_wary:
        state.replies_without_work = 0


def came_to_nothing(state: State) -> None:
    """A unit was of no use; several from one reply count as one, since they were asked for at once."""
    answered = state.books.talk.previous
    state.is_wary = True
    if state.nothing_after != answered:
        state.nothing_after = answered
        no_work(state)


def was_of_use(state: State) -> None:
    """A unit was computed."""
    state.replies_without_work = 0
    state.is_wary = False


def report_again_s(state: State, saved: SavedRequest, reply: Reply) -> float:
    """When to report again after a reply without sense: a server that gives no other is let be.

    One that leaves out receipts, or gives leases that nobody asked for, which must be returned.
    """
    reported = [state.units.get(lease) for lease in saved.reports]
    given = [state.units.get(offer.lease) for offer in reply.leases]
    is_left_out = any(unit is not None and unit.state == "to_report" for unit in reported)
    is_unasked = any(unit is not None and unit.code == NOT_ASKED_FOR for unit in given)
    if not (is_left_out or is_unasked):
        state.senseless = 0
        return 0.0
    state.senseless += 1
    if state.senseless == 1:
        return 0.0
    network = state.settings.network
    wait_s = delay_s(
        state.senseless - 1,
        first_s=network.backoff_first_s,
        most_s=network.backoff_most_s,
        draw=state.now.draw,
    )
    return state.now.boot_s + wait_s
