"""Orders become start ticks: arithmetic by hand, always allowed, and the compiled core is the interpreted one."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from epoch_problems import FEATURES, brute_force, make_problem, random_problem
from hypothesis import given
from hypothesis import strategies as st

from hexsolve_models import cost, earliest_finish, timetable, violations
from hexsolve_models.timetable import CHOOSE, along_edges, held_segments

SOME_FEATURES = st.sets(st.sampled_from([name for name in FEATURES if name != "caps"]))


def test_fills_gaps():
    # Call 0 (8 blocks) waits for the held 5 until 20; call 1 (2 blocks), prefilled after it, decodes meanwhile.
    problem = make_problem([[1], [1]], [[4], [3]], kv=[8, 2], capacity=[10], held=[(0, 0, 20, 5)])
    decision = timetable(problem, [0, 1], [0, 0], [0, 0])
    assert decision.prefill_start.tolist() == [0, 1]
    assert decision.decode_start.tolist() == [20, 2]


def test_refuses():
    problem = make_problem([[1, -1]], [[1]])
    with pytest.raises(ValueError, match="expected a permutation"):
        timetable(problem, [1], [0], [0])
    with pytest.raises(ValueError, match="call 0: no allowed pair"):
        timetable(problem, [0], [1], [0])


@pytest.mark.parametrize("compiled", [False, True])
def test_crowding_slows_every_call_on_the_replica(compiled):
    # Three on one replica, one of them more than the two at full speed: each takes 5 + 2. Prefills end at 1, 2, 3.
    problem = make_problem([[1]] * 3, [[5]] * 3, crowding=[[2]] * 3, uncrowded=[2])
    decision = timetable(problem, [0, 1, 2], [0] * 3, [0] * 3, compiled=compiled)
    assert decision.decode_finish(problem).tolist() == [8, 9, 10]
    # The KV is held for as long: room for two calls at a time, the third starts when the first is done at 1 + 7.
    tight = make_problem([[1]] * 3, [[5]] * 3, crowding=[[2]] * 3, uncrowded=[2], kv=[5] * 3, capacity=[10])
    assert timetable(tight, [0, 1, 2], [0] * 3, [0] * 3, compiled=compiled).decode_start.tolist() == [1, 2, 8]


@pytest.mark.parametrize("compiled", [False, True])
def test_choices_count_the_calls_placed_before(compiled):
    # Own prefill replicas; D0 takes 5 (9 for two), D1 takes 7. The first takes D0, the second D1: 1 + 7 < 1 + 9.
    problem = make_problem([[1, -1], [-1, 1]], [[5, 7]] * 2, crowding=[[4, 4]] * 2)
    chosen = earliest_finish(problem, [0, 1], compiled=compiled)
    assert chosen.decode.tolist() == [0, 1]
    assert chosen.decode_finish(problem).tolist() == [6, 8]
    # At 12 on D1 the second joins the first on D0 all the same, and both are timed as two: 1 + 9.
    problem = make_problem([[1, -1], [-1, 1]], [[5, 12]] * 2, crowding=[[4, 4]] * 2)
    together = earliest_finish(problem, [0, 1], compiled=compiled)
    assert together.decode.tolist() == [0, 0]
    assert together.decode_finish(problem).tolist() == [10, 10]


@pytest.mark.parametrize("compiled", [False, True])
def test_children_wait_for_finish_and_lag(compiled):
    # Call 1 is done at 2 + 3 = 5; call 0 comes 4 ticks later: prefill 9 to 10, decode to 11. Call 2 goes between.
    problem = make_problem([[1], [2], [3]], [[1], [3], [1]], edges=[(1, 0, 4)])
    decision = timetable(problem, [0, 1, 2], [0] * 3, [0] * 3, compiled=compiled)
    assert decision.prefill_start.tolist() == [9, 0, 10]  # 0 right behind 1 in the queue: call 2 waits as well
    decision = timetable(problem, [1, 2, 0], [0] * 3, [0] * 3, compiled=compiled)
    assert decision.prefill_start.tolist() == [9, 0, 2]


def test_order_is_repaired_only_where_it_has_to_be():
    # 3 waits for 0 and 1, 0 waits for 2.
    problem = make_problem([[1]] * 4, [[1]] * 4, edges=[(0, 3, 0), (1, 3, 0), (2, 0, 0)])
    assert along_edges(problem, np.array([2, 1, 0, 3])).tolist() == [2, 1, 0, 3]
    assert along_edges(problem, np.array([3, 1, 0, 2])).tolist() == [1, 2, 0, 3]


@given(st.integers(0, 10**6), st.integers(1, 9), st.booleans(), SOME_FEATURES)
def test_allowed_and_repeats_itself(seed, num_calls, compiled, features):
    problem = random_problem(seed, num_calls, 2, 3, features)
    rng = np.random.default_rng(seed)
    order = rng.permutation(num_calls)
    chosen = earliest_finish(problem, order, compiled=compiled)
    assert violations(problem, chosen) == []
    # The plain and the compiled core, and choosing and being told, agree.
    assert timetable(problem, order, chosen.prefill, chosen.decode, compiled=not compiled) == chosen
    # So do they when some replicas are given and others chosen.
    prefill, decode = (
        np.where(rng.random(num_calls) < 0.5, given, CHOOSE) for given in (chosen.prefill, chosen.decode)
    )
    partly = timetable(problem, order, prefill, decode, compiled=compiled)
    assert violations(problem, partly) == []
    assert ((partly.prefill == prefill) | (prefill == CHOOSE)).all()
    assert ((partly.decode == decode) | (decode == CHOOSE) | ~problem.is_free).all()
    assert timetable(problem, order, prefill, decode, compiled=not compiled) == partly


@given(st.integers(0, 10**6), st.integers(1, 4), SOME_FEATURES)
def test_some_order_of_the_optimum_is_no_dearer(seed, num_calls, features):
    # Prefill order of the optimum; with KV to spare decodes start on arrival, so the order says it all.
    problem = random_problem(seed, num_calls, 1, 2, features)
    problem = replace(problem, kv_capacity=problem.kv_capacity + 1000)
    best, decision = brute_force(problem)
    order = decision.priority_order(problem)
    assert cost(problem, timetable(problem, order, decision.prefill, decision.decode)) == best


@given(st.integers(0, 10**6))
def test_held_segments_are_the_sum_of_the_intervals(seed):
    rng = np.random.default_rng(seed)
    start = rng.integers(-5, 20, 12)
    held = np.stack([rng.integers(0, 3, 12), start, start + rng.integers(0, 9, 12), rng.integers(0, 5, 12)], axis=1)
    problem = make_problem([[1]], [[1, 1, 1]], held=held)
    for d in range(3):
        ticks, use = held_segments(problem, d)
        assert ticks[0] == 0
        assert use[-1] == 0
        assert all(a < b for a, b in pairwise(ticks))
        for tick in range(40):
            there = sum(blocks for r, a, b, blocks in held.tolist() if r == d and a <= tick < b)
            assert use[np.searchsorted(ticks, tick, side="right") - 1] == there
