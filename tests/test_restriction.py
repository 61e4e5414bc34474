"""Parts of a problem: what they promise about the whole, judged by the referee."""

from dataclasses import replace

import numpy as np
import pytest
from epoch_problems import FEATURES, brute_force, hint_within_caps, make_problem, random_problem
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hexsolve_models import Decision, cost, violations
from hexsolve_models.restriction import NoPartError, group, head, merged, part_of

SEEDS = st.integers(0, 10**6)
SOME_FEATURES = st.sets(st.sampled_from(FEATURES))


def a_group(problem, incumbent, rng):
    """Increasing calls that are last in their queues: all of some replicas, the tail of others, some locked ones."""
    chosen = set(np.flatnonzero(~problem.is_free & (rng.random(problem.num_calls) < 0.5)).tolist())
    for p in range(problem.num_prefill):
        queue = [c for c in np.argsort(incumbent.prefill_start, kind="stable") if incumbent.prefill[c] == p]
        chosen |= set(queue[int(rng.integers(0, len(queue) + 1)) :])
    return np.array(sorted(chosen), dtype=int)


def part_or_none(make, problem, incumbent, calls):
    """None where an edge crosses the border, or no workflow can stand for those outside."""
    try:
        return make(problem, incumbent, calls)
    except NoPartError:
        return None


@given(SEEDS, st.integers(2, 5), SOME_FEATURES)
@settings(max_examples=150, deadline=None)
def test_what_a_group_saves_the_whole_saves(seed, num_calls, features):
    problem = random_problem(seed, num_calls, features=features)
    incumbent = hint_within_caps(problem)
    calls = a_group(problem, incumbent, np.random.default_rng(seed))
    assume(0 < calls.size <= 4)
    part = part_or_none(group, problem, incumbent, calls)
    assume(part is not None)
    own = part_of(incumbent, calls)
    assert violations(part, own) == []
    assert own == part_of(merged(incumbent, calls, own), calls)
    assert merged(incumbent, calls, own) == incumbent
    best, decision = brute_force(part)
    whole = merged(incumbent, calls, decision)
    assert violations(problem, whole) == []
    assert cost(problem, incumbent) - cost(problem, whole) >= cost(part, own) - best >= 0


@given(SEEDS, st.integers(1, 4), SOME_FEATURES)
@settings(max_examples=40, deadline=None)
def test_all_calls_are_the_whole(seed, num_calls, features):
    problem = random_problem(seed, num_calls, features=features)
    incumbent = hint_within_caps(problem)
    calls = np.arange(num_calls)
    best = brute_force(problem)[0]
    assert brute_force(group(problem, incumbent, calls))[0] == best
    assert brute_force(head(problem, incumbent, calls))[0] == best
    assert cost(group(problem, incumbent, calls), incumbent) == cost(problem, incumbent)


@given(SEEDS, st.integers(2, 5), SOME_FEATURES)
@settings(max_examples=60, deadline=None)
def test_a_head_contains_what_the_incumbent_does_with_it(seed, num_calls, features):
    problem = random_problem(seed, num_calls, features=features)
    incumbent = hint_within_caps(problem)
    calls = np.sort(incumbent.priority_order(problem)[: (num_calls + 1) // 2])
    part = part_or_none(head, problem, incumbent, calls)
    assume(part is not None)
    assert violations(part, part_of(incumbent, calls)) == []
    # Crowding by those outside is in, so that the finishes are the ones of the whole.
    finish = part_of(incumbent, calls).decode_finish(part)
    assert finish.tolist() == incumbent.decode_finish(problem)[calls].tolist()


def test_a_group_by_hand():
    # P0 runs calls 0, 1 (prefill 4, 1) and P1 call 2 (prefill 5, decode 1, done at 6); decodes 2; costs = finishes.
    # Incumbent: 0 first, 4 + 2 = 6 and 5 + 2 = 7. The group of P0 finds 1 first: 3 and 7. Nobody else moves.
    problem = make_problem([[4, 9], [1, 9], [9, 5]], [[2], [2], [1]])
    incumbent = Decision([0, 0, 1], [0, 0, 0], [0, 4, 0], [4, 5, 5])
    part = group(problem, incumbent, [0, 1])
    assert part.prefill_free_tick.tolist() == [0, 5]
    assert (part.held_start.tolist(), part.held_end.tolist()) == ([5], [6])
    best, decision = brute_force(part)
    assert best == 3 + 7
    assert cost(problem, merged(incumbent, [0, 1], decision)) == 3 + 7 + 6


def test_workflows_do_not_end_before_their_calls_outside():
    # Calls 0 and 2 are one workflow, of cost F, and call 2 ends at 10: nothing is gained by call 0 before that.
    problem = make_problem([[1, 9], [1, 9], [9, 5]], [[1], [1], [5]], workflow=[0, 1, 0])
    incumbent = Decision([0, 0, 1], [0, 0, 0], [0, 1, 0], [1, 2, 5])
    part = group(problem, incumbent, [0, 1])
    assert [part.objective.workflow_cost(0, tick) for tick in (2, 10, 11)] == [10, 10, 11]
    assert brute_force(part)[0] == 10 + 2  # call 1 first


def test_newcomers_stay_away_where_others_would_slow_down():
    # Call 1 decodes on D1 and would take 3 ticks longer beside call 0, which costs 100 per tick of its own.
    problem = make_problem([[1, 9], [9, 1]], [[9, 5], [9, 5]], crowding=[[0, 0], [0, 3]], slope=[[1], [100]])
    incumbent = Decision([0, 1], [0, 1], [0, 0], [1, 1])
    assert group(problem, incumbent, [0]).decode_ticks.tolist() == [[9, -1]]
    assert group(replace(problem, uncrowded_calls=[2, 2]), incumbent, [0]).decode_ticks.tolist() == [[9, 5]]


def test_caps_leave_what_the_others_use_up():
    # One unit per tick for every finish (1 + 1, 1 + 1 and 9) and each workflow's F: 2 + 3 + 10 twice, so 30 at most.
    # Call 2 uses 20 of them, and calls 0 and 1 the other 10.
    problem = make_problem([[1, 9], [1, 9], [9, 9]], [[1]] * 3, weight=[1] * 3)
    incumbent = Decision([0, 0, 1], [0, 0, 0], [0, 1, 0], [1, 2, 9])
    part = group(replace(problem, caps=((problem.objective, 30),)), incumbent, [0, 1])
    assert [limit for _, limit in part.caps] == [10]
    assert violations(part, part_of(incumbent, [0, 1])) == []
    assert violations(part, Decision([0, 0], [0, 0], [0, 1], [1, 3])) == ["cap 0: costs 12, at most 10"]


@pytest.mark.parametrize(
    ("calls", "message"),
    [
        ([], "calls = .*: expected increasing indices in 0..2"),
        ([1, 0], "expected increasing"),
        ([3], "expected increasing"),
        ([0], "calls has 0 but not one behind it on prefill replica 0"),
        ([2], "calls has 2 but not 1, which waits for it"),
    ],
)
def test_what_is_no_group(calls, message):
    problem = make_problem([[1, 9], [1, 9], [9, 1]], [[1]] * 3, edges=[(2, 1, 0)])
    incumbent = Decision([0, 0, 1], [0, 0, 0], [0, 2, 0], [1, 3, 1])
    with pytest.raises(ValueError, match=message):
        group(problem, incumbent, calls)
