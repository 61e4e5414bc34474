"""The CP-SAT full schedule and the quick bounds against enumeration, and what must not change an optimum."""

from dataclasses import replace

import numpy as np
import pytest
from epoch_problems import (
    FEATURES,
    brute_force,
    hint_within_caps,
    make_problem,
    random_problem,
    renumbered,
    with_a_twin,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from hexsolve.backends import Limits, ModelError
from hexsolve.backends.cpsat import run
from hexsolve_models import Objective, cost, earliest_finish, violations
from hexsolve_models.bounds import NEVER, lower_bound, standalone, standalone_bound
from hexsolve_models.formulation import NumberRangeError
from hexsolve_models.formulations.cpsat_full import build

LIMITS = Limits(wall_ms=None, deterministic=20.0, seed=0, workers=1)
SEEDS = st.integers(0, 10**6)
SOME_FEATURES = st.sets(st.sampled_from(FEATURES))


def optimum(problem, incumbent=None, candidates=None):
    formulation = build(problem, incumbent, candidates=candidates)
    outcome = run(formulation.model, None if incumbent is None else formulation.encode(incumbent), LIMITS)
    assert outcome.status == "OPTIMAL"
    decision = formulation.decode(outcome.values)
    assert violations(problem, decision) == []
    assert cost(problem, decision) == outcome.objective == outcome.bound
    return outcome.objective


def greedy(problem, seed=0):
    return earliest_finish(problem, np.random.default_rng(seed).permutation(problem.num_calls))


@given(SEEDS, st.integers(1, 4), SOME_FEATURES)
@settings(max_examples=80, deadline=None)
def test_optimum_is_the_enumerated_one(seed, num_calls, features):
    problem = random_problem(seed, num_calls, features=features)
    best, _ = brute_force(problem)
    assert optimum(problem) == best
    assert optimum(problem, hint_within_caps(problem)) == best
    assert standalone_bound(problem) <= lower_bound(problem) <= best


@given(SEEDS, SOME_FEATURES)
@settings(max_examples=6, deadline=None)
def test_optimum_of_five_calls_is_the_enumerated_one(seed, features):
    problem = random_problem(seed, 5, 1, 2, features)
    assert optimum(problem, hint_within_caps(problem)) == brute_force(problem)[0]


@given(SEEDS, st.integers(1, 8))
@settings(max_examples=60, deadline=None)
def test_bounds_hold_for_every_schedule(seed, num_calls):
    problem = random_problem(seed, num_calls, 3, 3)
    alone = standalone(problem)
    for order in range(5):
        decision = greedy(problem, order)
        assert lower_bound(problem) <= cost(problem, decision)
        finish = decision.decode_finish(problem)
        assert (alone.finish <= finish).all()
        assert (alone.via_decode[np.arange(num_calls), decision.decode] <= finish).all()
        free = np.flatnonzero(problem.is_free)
        assert (alone.via_prefill[free, decision.prefill[free]] <= finish[free]).all()


def test_pool_bound_by_hand():
    # Three calls of prefill 4 on one replica, decode 1: finishes >= 5, 9, 13, together 27; alone each would take 5.
    problem = make_problem([[4]] * 3, [[1]] * 3)
    assert standalone_bound(problem) == 15
    assert lower_bound(problem) == 27
    # Three locked decodes of 10 blocks for 6 ticks in 20 blocks: area 60, 120, 180 over 20 per tick: 3, 6, 9 ticks,
    # but none alone before 6: 6 + 6 + 9.
    locked = make_problem([[-1]] * 3, [[6]] * 3, kv=[10] * 3, capacity=[20], locked=[0] * 3)
    assert lower_bound(locked) == 21
    assert optimum(locked) == 24  # two at once: 6 + 6 + 12


def test_standalone_counts_held_kv_by_hand():
    # D0 is full during [4, 10): ready at 1, 3 ticks fit before, 5 do not and end at 15. D1 is free but takes 20.
    problem = make_problem([[1], [1]], [[3, 20], [5, 20]], capacity=[10, 10], held=[(0, 4, 10, 10)])
    alone = standalone(problem)
    assert alone.via_decode.tolist() == [[4, 21], [15, 21]]
    assert alone.finish.tolist() == [4, 15]


def test_bound_of_what_cannot_be_placed():
    assert lower_bound(make_problem([[1]], [[1]], kv=[9], capacity=[8])) == NEVER


@given(SEEDS, st.integers(1, 6), SOME_FEATURES)
@settings(max_examples=80, deadline=None)
def test_encode_then_decode_is_the_decision_and_feasible(seed, num_calls, features):
    problem = random_problem(seed, num_calls, features=features)
    decision = hint_within_caps(problem)
    formulation = build(problem, decision)
    values = formulation.encode(decision)
    assert formulation.decode(values) == decision
    # Fixed to these values the model is feasible and costs what the referee says.
    for variable, value in zip(formulation.model.proto.variables, values, strict=True):
        low, high = variable.domain
        assert low <= value <= high
        variable.domain.clear()
        variable.domain.extend([value, value])
    outcome = run(formulation.model, None, LIMITS)
    assert (outcome.status, outcome.objective) == ("OPTIMAL", cost(problem, decision))


def test_crowding_by_hand():
    # Both prefer D0 (10 ticks against 13) and are there at 1, but two together take 4 ticks longer each: 15 + 15 on D0,
    # 11 + 14 apart.
    problem = make_problem([[1, -1], [-1, 1]], [[10, 13]] * 2, crowding=[[4, 4]] * 2)
    assert optimum(problem) == 25
    # With D1 at 20, together is cheaper than 11 + 21.
    assert optimum(replace(problem, decode_ticks=[[10, 20]] * 2)) == 30
    # Uncrowded up to two: 11 + 11.
    assert optimum(replace(problem, uncrowded_calls=[2, 2])) == 22


def test_crowding_lengthens_what_is_held():
    # One at a time in 10 blocks; two calls on the replica slow each other down even so: 5 + 2 ticks each after a
    # prefill of 1 each in parallel. 1 + 7 = 8, then 15.
    problem = make_problem([[1, -1], [-1, 1]], [[5]] * 2, kv=[6, 6], capacity=[10], crowding=[[2]] * 2)
    assert optimum(problem) == 8 + 15


def test_edge_by_hand():
    # Call 1 starts 3 ticks after call 0 (prefill 2, decode 4: 6) ended: 9 + 1 + 1 = 11. Without the edge: 2 + 3.
    problem = make_problem([[2], [1]], [[4], [1]], edges=[(0, 1, 3)])
    assert optimum(problem) == 6 + 11


def test_staged_optimum_is_the_enumerated_lexicographic_one():
    # Prefills 5, 4, 4 on one replica, decodes 1, cost 3, 1, 1 per tick. Dues 9: two of three in time (4 + 4 + 1 = 9).
    # Cheapest of all: call 0 first, 3 * 6 + 10 + 14 = 42 with two late; with one late, 5 + 9 + 3 * 14 = 56.
    prefill, decode = [[5], [4], [4]], [[1]] * 3
    problem = make_problem(prefill, decode, slope=[[3], [1], [1]])
    late = make_problem(prefill, decode, slope=[[0]] * 3, due=[9] * 3, late=[1] * 3)
    assert optimum(problem) == 42
    assert optimum(late) == 1
    assert optimum(replace(problem, caps=((late.objective, 1),))) == 56
    assert optimum(replace(problem, caps=((late.objective, 2),))) == 42


@given(SEEDS, st.integers(1, 4), st.sets(st.sampled_from(["crowding", "edges", "late"])))
@settings(max_examples=25, deadline=None)
def test_two_stages_find_the_lexicographic_optimum(seed, num_calls, features):
    problem = random_problem(seed, num_calls, features=features)
    rng = np.random.default_rng(seed)
    flat = np.zeros((problem.num_workflows, 1), dtype=int)
    late = Objective(
        flat,
        flat,
        problem.objective.tail_ticks,
        np.zeros(num_calls, dtype=int),
        due_tick=rng.integers(5, 30, problem.num_workflows),
        late_weight=rng.integers(1, 4, problem.num_workflows),
    )
    first = replace(problem, objective=late)
    fewest = optimum(first)
    assert fewest == brute_force(first)[0]
    second = replace(problem, caps=((late, fewest),))
    assert optimum(second) == brute_force(second)[0]


@given(SEEDS, st.integers(2, 4), SOME_FEATURES)
@settings(max_examples=25, deadline=None)
def test_renumbering_leaves_the_optimum(seed, num_calls, features):
    problem = random_problem(seed, num_calls, features=features)
    rng = np.random.default_rng(seed)
    assert optimum(renumbered(problem, rng)) == optimum(problem)


@given(SEEDS, st.integers(1, 5), st.booleans(), SOME_FEATURES)
@settings(max_examples=25, deadline=None)
def test_another_replica_never_hurts(seed, num_calls, is_prefill, features):
    problem = random_problem(seed, num_calls, features=features)
    assert optimum(with_a_twin(problem, is_prefill)) <= optimum(problem)


@given(SEEDS, st.integers(1, 5), SOME_FEATURES)
@settings(max_examples=25, deadline=None)
def test_fewer_candidates_never_help_and_keep_the_incumbent(seed, num_calls, features):
    problem = random_problem(seed, num_calls, 3, 3, features)
    hint = hint_within_caps(problem)
    restricted = optimum(problem, hint, candidates=1)
    assert optimum(problem) <= restricted <= cost(problem, hint)
    assert not build(problem, hint, candidates=1).is_exact


def test_twins_are_noticed():
    assert build(make_problem([[2, 2]], [[1, 3]])).has_twins
    assert build(make_problem([[2, 3]], [[1, 1]])).has_twins
    assert not build(make_problem([[2, 3]], [[1, 3]])).has_twins
    assert not build(make_problem([[2, 2]], [[1, 3]], free_tick=[0, 1])).has_twins


def test_the_dearest_decisions_are_outside_the_model():
    # Costs 2 on D0 and 90 on D1: with the cheap incumbent D1 cannot appear.
    problem = make_problem([[1]], [[1, 89]])
    near, far = earliest_finish(problem, [0]), replace(earliest_finish(problem, [0]), decode=np.array([1]))
    assert violations(problem, far) == []
    with pytest.raises(ValueError, match="call 0 on replica 1: the model keeps only"):
        build(problem, near).encode(far)


def test_nothing_to_build_for_blocked_calls():
    with pytest.raises(ValueError, match=r"calls \[0\] have no replica"):
        build(make_problem([[1]], [[1]], kv=[9], capacity=[8]))


@pytest.mark.parametrize("aggregate", ["sum", "max"])
def test_costs_beyond_exact_doubles_are_refused(aggregate):
    problem = make_problem([[2**20]], [[2**20]], slope=[[2**40, 2**41]], intercept=[[0, -1]], aggregate=aggregate)
    with pytest.raises(NumberRangeError, match=r"expected below 2\^53"):
        build(problem)


def test_invalid_models_raise_with_the_solvers_text():
    formulation = build(make_problem([[1, 2]], [[1]]))
    formulation.model.proto.variables[0].domain.extend([7, 5])
    with pytest.raises(ModelError, match="domain"):
        run(formulation.model, None, LIMITS)
