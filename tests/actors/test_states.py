"""The state machine: one table, and nothing beside it."""

from __future__ import annotations

import pytest
from foliot.actors.states import TRANSITIONS, IllegalTransitionError, State, check_transition
from hypothesis import given
from hypothesis import strategies as st

ALIVE = [state for state in State if not state.is_final]


def test_every_state_has_its_row() -> None:
    assert set(TRANSITIONS) == set(State)


def test_every_state_that_is_alive_can_reach_an_end() -> None:
    for state in ALIVE:
        seen, todo = {state}, [state]
        while todo:
            for target in TRANSITIONS[todo.pop()]:
                if target not in seen:
                    seen.add(target)
                    todo.append(target)
        assert any(target.is_final for target in seen), state


def test_completed_is_forever() -> None:
    assert TRANSITIONS[State.COMPLETED] == frozenset()


def test_an_end_is_left_only_by_being_queued_again() -> None:
    for state in State:
        if state.is_final:
            assert TRANSITIONS[state] <= {State.QUEUED}


def test_only_queued_tasks_start() -> None:
    assert [state for state in State if State.RUNNING in TRANSITIONS[state]] == [State.QUEUED]


@given(before=st.sampled_from(State), after=st.sampled_from(State))
def test_the_check_agrees_with_the_table(before: State, after: State) -> None:
    if after in TRANSITIONS[before]:
        check_transition(1, int(before), int(after))
    else:
        with pytest.raises(IllegalTransitionError, match=f"task 1 cannot go from {before.label} to {after.label}"):
            check_transition(1, int(before), int(after))
