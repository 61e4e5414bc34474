"""Quick bounds and windows against enumeration and every schedule, by hand, and compiled against interpreted."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
from epoch_problems import FEATURES, brute_force, hint_within_caps, make_problem, random_decision, random_problem
from hypothesis import given, settings
from hypothesis import strategies as st

from hexsolve_models import Objective, cost, earliest_finish
from hexsolve_models import alone as alone_module
from hexsolve_models import curves as curves_module
from hexsolve_models import fees as fees_module
from hexsolve_models import pools as pools_module
from hexsolve_models import timetable as timetable_module
from hexsolve_models.bounds import NEVER, cost_at, lower_bound, standalone, standalone_bound, workflow_costs
from hexsolve_models.warm import warm_up
from hexsolve_models.windows import UNBOUNDED, latest_finishes, options, time_windows

MODULES = (alone_module, curves_module, fees_module, pools_module, timetable_module)
SEEDS = st.integers(0, 10**6)
SOME_FEATURES = st.sets(st.sampled_from(FEATURES))


@given(SEEDS, st.integers(1, 4), SOME_FEATURES)
@settings(max_examples=60)
def test_no_bound_is_above_the_enumerated_optimum(seed, num_calls, features):
    problem = random_problem(seed, num_calls, features=features)
    best, _ = brute_force(problem)
    assert standalone_bound(problem) <= lower_bound(problem) <= best


@given(SEEDS, st.integers(1, 4), SOME_FEATURES, st.booleans())
@settings(max_examples=60)
def test_windows_keep_the_enumerated_optimum_and_the_incumbent(seed, num_calls, features, has_incumbent):
    problem = random_problem(seed, num_calls, features=features)
    incumbent = hint_within_caps(problem) if has_incumbent else None
    windows = time_windows(problem, incumbent)
    via_prefill, via_decode = options(problem, windows, incumbent, None)
    for decision in (brute_force(problem)[1], incumbent):
        if decision is not None:
            finish = decision.decode_finish(problem)
            assert (finish <= windows.latest).all()
            last = np.array(
                [
                    max((finish + problem.objective.tail_ticks)[problem.workflow == w])
                    for w in range(9)
                    if (problem.workflow == w).any()
                ]
            )
            assert (windows.earliest_workflow <= last).all()
            assert (last <= windows.latest_workflow).all()
            calls, free = np.arange(num_calls), np.flatnonzero(problem.is_free)
            assert via_decode[calls, decision.decode].all()
            assert via_prefill[free, decision.prefill[free]].all()


@given(SEEDS, st.integers(1, 8), SOME_FEATURES)
@settings(max_examples=100)
def test_bounds_hold_for_every_schedule(seed, num_calls, features):
    problem = random_problem(seed, num_calls, 3, 3, features)
    alone = standalone(problem)
    for order in range(5):
        decision = random_decision(problem, order)
        assert lower_bound(problem, alone) <= cost(problem, decision)
        finish = decision.decode_finish(problem)
        assert (alone.finish <= finish).all()
        assert (alone.via_decode[np.arange(num_calls), decision.decode] <= finish).all()
        free = np.flatnonzero(problem.is_free)
        assert (alone.via_prefill[free, decision.prefill[free]] <= finish[free]).all()
        prefilled = decision.prefill_start[free] + problem.prefill_ticks[free, decision.prefill[free]]
        assert (alone.after_prefill[free] <= finish[free] - prefilled).all()


@given(SEEDS, SOME_FEATURES)
def test_one_call_alone_is_the_optimum(seed, features):
    problem = random_problem(seed, 1, 3, 3, features)
    assert lower_bound(problem) == brute_force(problem)[0]


def test_prefill_queue_by_hand():
    # Three calls of prefill 4 on one replica, decode 1: finishes >= 5, 9, 13, together 27; alone each would take 5.
    problem = make_problem([[4]] * 3, [[1]] * 3)
    assert standalone_bound(problem) == 15
    assert lower_bound(problem) == 27
    # The longest decode behind the first prefill: 4 + 9, 8 + 2, 12 + 1 = 36 is the best of all orders.
    assert lower_bound(make_problem([[4]] * 3, [[9], [2], [1]])) == 36
    # Prefills 6 and 2: the long one takes 6 in whatever place. Short first 3 + 9, long first 7 + 9.
    assert lower_bound(make_problem([[6], [2]], [[1], [1]])) == 12


def test_slow_replicas_do_not_count_as_fast_ones():
    # P0 takes 2 per call, P1 6: in T ticks T / 2 + T / 6 calls. Prices 1024 and 341 (2 / 6 of it): a call is 2048 of
    # price 1024, or 6 * 341 = 2046. Four calls need 4 * 2046 / 1365 = 5.996, so 6 ticks; as fast ones they would be
    # done after 4. 2 and 3 of them: 4092 / 1365 and 6138 / 1365 round up to 3 and 5. Finishes 3, 4, 6, 7.
    problem = make_problem([[2, 6]] * 4, [[1]] * 4)
    assert lower_bound(problem) == 3 + 4 + 6 + 7
    assert brute_force(problem)[0] == 3 + 5 + 7 + 7


def test_largest_cost_counts_all_in_late_places():
    # Prefills of 4 on one replica, decode 1. Costs F, F, 10 F: the dear one goes first, 50, and 13 is less.
    dear = make_problem([[4]] * 3, [[1]] * 3, slope=[[1], [1], [10]], aggregate="max")
    assert lower_bound(dear) == 50
    # Costs F, 10 F, 10 F: two of them are second or later, one of them dear: 10 * 9 = 90.
    dear = make_problem([[4]] * 3, [[1]] * 3, slope=[[1], [10], [10]], aggregate="max")
    assert lower_bound(dear) == brute_force(dear)[0] == 90


def test_decode_area_by_hand():
    # Three locked decodes of 10 blocks for 6 ticks in 20 blocks: area 60, 120, 180 over 20 per tick: 3, 6, 9 ticks,
    # but none alone before 6: 6 + 6 + 9.
    locked = make_problem([[-1]] * 3, [[6]] * 3, kv=[10] * 3, capacity=[20], locked=[0] * 3)
    assert lower_bound(locked) == 21
    assert brute_force(locked)[0] == 24  # two at once: 6 + 6 + 12


def test_standalone_counts_held_kv_by_hand():
    # D0 is full during [4, 10): ready at 1, 3 ticks fit before, 5 do not and end at 15. D1 is free but takes 20.
    problem = make_problem([[1], [1]], [[3, 20], [5, 20]], capacity=[10, 10], held=[(0, 4, 10, 10)])
    alone = standalone(problem)
    assert alone.via_decode.tolist() == [[4, 21], [15, 21]]
    assert alone.finish.tolist() == [4, 15]


def test_standalone_waits_for_parents_and_counts_who_is_bound():
    # Call 0: 2 + 3 = 5. Call 1 starts 4 later: 9 + 1 + 1 = 11.
    chain = make_problem([[2], [1]], [[3], [1]], edges=[(0, 1, 4)])
    assert standalone(chain).finish.tolist() == [5, 11]
    assert standalone(chain).via_prefill.tolist() == [[5], [11]]
    # Two calls are bound to D0, which is at full speed with one: they take 5 + 2; a third one there 5 + 4, on D1 6.
    problem = make_problem([[-1]] * 2 + [[1]], [[5, -1]] * 2 + [[5, 6]], locked=[0, 0, -1], crowding=[[2, 2]] * 3)
    assert standalone(problem).finish.tolist() == [7, 7, 7]
    assert standalone(problem).via_decode.tolist() == [[7, NEVER], [7, NEVER], [10, 7]]


def test_windows_by_hand():
    # Prefills 1, 2 on one replica, decodes 3, 4, transfer 1, 5 ticks between: 1 + 1 + 3 + 5 + 2 + 1 + 4.
    chain = make_problem([[1], [2]], [[3], [4]], transfer=[[1]], edges=[(0, 1, 5)])
    assert time_windows(chain, None).latest == [17 - 7 - 5, 17]
    # Crowding may add 2 to each, both on the only replica.
    crowded = make_problem([[1], [2]], [[3], [4]], crowding=[[2]] * 2)
    assert time_windows(crowded, None).latest == [14, 14]
    # Serial: 4 + 4 + 4 + 4. Late weights 1 and 2, and at most 1 in all: workflow 1 must not be late, so done by 9.
    slow = make_problem([[4], [4]], [[4], [4]], due=[9, 9], late=[1, 2])
    flat = replace(slow.objective, slope=np.zeros((2, 1), dtype=int))
    assert time_windows(replace(slow, caps=((flat, 1),)), None).latest == [16, 9]


def test_fees_by_hand():
    # Own prefill replicas (1), one decode replica: 4 ticks alone, 7 for two. A fee of 6: alone 5 + 6, as two 8 + 3,
    # so 11 each, less the fee 16; without it 5 + 5.
    pair = make_problem([[1, -1], [-1, 1]], [[4]] * 2, crowding=[[3]] * 2)
    assert standalone_bound(pair) == 10
    assert lower_bound(pair) == brute_force(pair)[0] == 16
    # Behind each other on one prefill replica of 1: 8 + 9, and the fee of 6 knows both.
    assert lower_bound(replace(pair, prefill_ticks=[[1, -1], [1, -1]])) == 17
    # A second replica 1 tick slower: one each, 5 + 6. Fees of 2 and 1: 5 + 2, 6 + 1 or, shared, 8 + 1 and more, so 7
    # each, less 3.
    either = make_problem([[1, -1], [-1, 1]], [[4, 5]] * 2, crowding=[[3, 3]] * 2)
    assert lower_bound(either) == brute_force(either)[0] == 11
    # The largest cost pays no fees.
    assert lower_bound(replace(pair, objective=replace(pair.objective, aggregate="max"))) == 5


@given(SEEDS, st.integers(2, 8))
@settings(max_examples=60)
def test_few_levels_of_company_are_a_bound(seed, num_calls):
    problem = random_problem(seed, num_calls, 3, 3, ["crowding", "late"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fees_module, "_LEVELS", 2)
        patch.setattr(fees_module, "_FEWEST_LEVELS", 2)
        few = lower_bound(problem)
    assert all(few <= cost(problem, random_decision(problem, order)) for order in range(20))


def test_bound_of_what_cannot_be_placed_and_of_nothing():
    assert lower_bound(make_problem([[1]], [[1]], kv=[9], capacity=[8])) == NEVER
    assert lower_bound(make_problem(np.ones((0, 1), dtype=int), np.ones((0, 1), dtype=int))) == 0


@given(
    st.lists(st.tuples(st.integers(0, 2**50), st.integers(-(2**50), 2**50)), min_size=1, max_size=6),
    st.integers(-(2**50), 2**50),
    st.integers(0, 2**50),
    st.integers(0, 2**40),
    st.integers(-(2**61), 2**61),
)
def test_costs_and_latest_finishes_are_the_objectives_own(pieces, due, weight, finish, limit):
    slope, intercept = np.array(pieces).T[:, None, :]
    nothing = np.zeros(1, dtype=int)
    objective = Objective(slope, intercept, nothing, nothing, due_tick=[due], late_weight=[weight])
    assert workflow_costs(objective, np.array([finish])).tolist() == [objective.workflow_cost(0, finish)]
    latest = objective.latest_finish(0, limit)
    expected = UNBOUNDED if latest is None else max(latest, -1)  # any tick before 0 says "never"
    assert max(-1, int(latest_finishes(objective, np.array([limit]))[0])) == expected


@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(-40, 10)), min_size=1, max_size=6),
    st.integers(-5, 60),
    st.integers(0, 9),
)
def test_curves_are_the_objectives_costs(pieces, due, weight):
    slope, intercept = np.array(pieces).T[:, None, :]
    nothing = np.zeros(1, dtype=int)
    objective = Objective(slope, intercept, nothing, nothing, due_tick=[due], late_weight=[weight])
    walked = curves_module.curves(objective)
    for tick in range(60):
        k = int(np.searchsorted(walked.since[0, : walked.num[0]], tick, side="right")) - 1
        late = int(walked.late[0]) if tick > walked.due[0] else 0
        value = int(walked.slope[0, k]) * tick + int(walked.intercept[0, k]) + late
        assert value == objective.workflow_cost(0, tick)


@given(SEEDS, st.integers(1, 6), SOME_FEATURES)
def test_cost_at_is_the_referees(seed, num_calls, features):
    problem = random_problem(seed, num_calls, features=features)
    decision = earliest_finish(problem, np.random.default_rng(seed).permutation(num_calls))
    finish = decision.decode_finish(problem)
    assert cost_at(problem, finish) == cost(problem, decision)
    for objective, _ in problem.caps:
        assert cost_at(problem, finish, objective) == cost(problem, decision, objective)


@given(SEEDS, st.integers(1, 6), SOME_FEATURES)
@settings(max_examples=40)
def test_compiled_is_interpreted(seed, num_calls, features):
    problem = random_problem(seed, num_calls, 3, 2, features)
    compiled = standalone(problem)
    with pytest.MonkeyPatch.context() as patch:
        for module in MODULES:
            for name, function in kernels(module).items():
                patch.setattr(module, name, function.__wrapped__)
        interpreted = standalone(problem)
        assert lower_bound(problem, interpreted) == lower_bound(problem)
        for field in ("finish", "via_decode", "after_prefill", "via_prefill"):
            assert np.array_equal(getattr(interpreted, field), getattr(compiled, field))
    assert lower_bound(problem, interpreted) == lower_bound(problem, compiled)


def test_more_workflows_than_places_still_give_a_bound(monkeypatch):
    problem = make_problem([[4]] * 6, [[1]] * 6)
    monkeypatch.setattr(pools_module, "_MOST_PLACES", 3)
    # Three of the six queue: 5 + 9 + 13, the others alone: 5 each.
    assert lower_bound(problem) == 27 + 15


def test_nothing_is_compiled_after_warm_up():
    # numba compiles again for another memory layout or read-only flag: transposed input, and what came by pickle.
    def signatures():
        return {name: list(f.compiled().signatures) for module in MODULES for name, f in kernels(module).items()}

    warm_up()
    warm = signatures()
    assert all(warm.values())
    problem = random_problem(3, 6, 3, 2, ["crowding", "edges", "late"])
    objective = replace(problem.objective, slope=np.asfortranarray(problem.objective.slope))
    columns = replace(problem, decode_ticks=np.asfortranarray(problem.decode_ticks), objective=objective)
    for other in (problem, columns, pickle.loads(pickle.dumps(problem))):
        lower_bound(other)
        assert standalone(other).via_prefill.size
        earliest_finish(other, other.topological, compiled=True)
    assert signatures() == warm


def kernels(module):
    return {name: f for name, f in vars(module).items() if hasattr(f, "compiled") and f.__module__ == module.__name__}
