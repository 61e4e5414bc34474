"""The CP-SAT full schedule and the quick bounds against enumeration, and what must not change an optimum."""

from dataclasses import replace

import numpy as np
import pytest
from epoch_problems import brute_force, make_problem, random_problem
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


@given(SEEDS, st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_optimum_is_the_enumerated_one(seed, num_calls):
    problem = random_problem(seed, num_calls)
    best, _ = brute_force(problem)
    assert optimum(problem) == best
    assert optimum(problem, greedy(problem, seed)) == best
    assert standalone_bound(problem) <= lower_bound(problem) <= best


@given(SEEDS)
@settings(max_examples=6, deadline=None)
def test_optimum_of_five_calls_is_the_enumerated_one(seed):
    problem = random_problem(seed, 5, 1, 2)
    assert optimum(problem, greedy(problem, seed)) == brute_force(problem)[0]


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


@given(SEEDS, st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_encode_then_decode_is_the_decision_and_feasible(seed, num_calls):
    problem = random_problem(seed, num_calls)
    decision = greedy(problem, seed)
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


@given(SEEDS, st.integers(2, 4))
@settings(max_examples=25, deadline=None)
def test_renumbering_leaves_the_optimum(seed, num_calls):
    problem = random_problem(seed, num_calls)
    rng = np.random.default_rng(seed)
    assert optimum(renumbered(problem, rng)) == optimum(problem)


@given(SEEDS, st.integers(1, 5), st.booleans())
@settings(max_examples=25, deadline=None)
def test_another_replica_never_hurts(seed, num_calls, is_prefill):
    problem = random_problem(seed, num_calls)
    assert optimum(with_a_twin(problem, is_prefill)) <= optimum(problem)


@given(SEEDS, st.integers(1, 5))
@settings(max_examples=25, deadline=None)
def test_fewer_candidates_never_help_and_keep_the_incumbent(seed, num_calls):
    problem = random_problem(seed, num_calls, 3, 3)
    hint = greedy(problem, seed)
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


def renumbered(problem, rng):
    calls, p, d, w = (
        rng.permutation(n) for n in (problem.num_calls, problem.num_prefill, problem.num_decode, problem.num_workflows)
    )
    new_decode, new_workflow = np.argsort(d), np.argsort(w)
    old = problem.objective
    locked = problem.locked_decode[calls]
    return replace(
        problem,
        prefill_ticks=problem.prefill_ticks[calls][:, p],
        locked_decode=np.where(locked < 0, -1, new_decode[locked]),
        release_tick=problem.release_tick[calls],
        transfer_base_ticks=problem.transfer_base_ticks[p][:, d],
        transfer_rate_ticks=problem.transfer_rate_ticks[p][:, d],
        transfer_blocks=problem.transfer_blocks[calls],
        decode_ticks=problem.decode_ticks[calls][:, d],
        kv_blocks=problem.kv_blocks[calls],
        kv_capacity=problem.kv_capacity[d],
        prefill_free_tick=problem.prefill_free_tick[p],
        held_decode=new_decode[problem.held_decode],
        workflow=new_workflow[problem.workflow[calls]],
        objective=Objective(
            old.slope[w], old.intercept[w], old.tail_ticks[calls], old.call_weight[calls], old.aggregate
        ),
    )


def with_a_twin(problem, is_prefill):
    """The problem with its first prefill or decode replica twice."""

    def twice(array, axis):
        return np.concatenate([array, array.take([0], axis=axis)], axis=axis)

    axis = 0 if is_prefill else 1
    transfers = {
        "transfer_base_ticks": twice(problem.transfer_base_ticks, axis),
        "transfer_rate_ticks": twice(problem.transfer_rate_ticks, axis),
    }
    if is_prefill:
        own = {
            "prefill_ticks": twice(problem.prefill_ticks, 1),
            "prefill_free_tick": twice(problem.prefill_free_tick, 0),
        }
    else:
        own = {
            "decode_ticks": twice(problem.decode_ticks, 1),
            "kv_capacity": twice(problem.kv_capacity, 0),
            "crowding_ticks": twice(problem.crowding_ticks, 1),
            "uncrowded_calls": twice(problem.uncrowded_calls, 0),
        }
    return replace(problem, **transfers, **own)
