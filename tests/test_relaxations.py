"""Relaxations that keep the queues: against enumeration, against every decision, by hand, and compiled against
interpreted."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
from epoch_problems import (
    FEATURES,
    brute_force,
    hint_within_caps,
    make_problem,
    random_decision,
    random_problem,
    renumbered,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from hexsolve_models import cost, earliest_finish, late_count, violations
from hexsolve_models.bounds import NEVER, lower_bound
from hexsolve_models.relaxations import EFFORTS, ascent, best_bound, exact, pool, prices, rents, sharing, together
from hexsolve_models.warm import warm_up_relaxations

MODULES = (ascent, exact, prices, rents, sharing, together)
SEEDS = st.integers(0, 10**6)
SOME_FEATURES = st.sets(st.sampled_from(FEATURES))


def roomy(seed, num_calls, features=(), num_replicas=2):
    """A random problem with KV for all, so that the exact search decides it; sums, for it knows no largest cost."""
    problem = random_problem(seed, num_calls, num_replicas, num_replicas, features)
    nothing = np.zeros(0, dtype=int)
    return replace(
        problem,
        objective=replace(problem.objective, aggregate="sum"),
        kv_capacity=np.full(num_replicas, 10**6),
        **dict.fromkeys(("held_decode", "held_start", "held_end", "held_blocks"), nothing),
    )


@pytest.mark.parametrize("effort", EFFORTS)
@given(SEEDS, st.integers(1, 4), SOME_FEATURES, st.booleans())
@settings(max_examples=40)
def test_no_bound_is_above_the_enumerated_optimum(effort, seed, num_calls, features, has_hint):
    problem = random_problem(seed, num_calls, features=features)
    optimum, _ = brute_force(problem)
    found = best_bound(problem, hint_within_caps(problem) if has_hint else None, effort=effort)
    assert lower_bound(problem) <= found.bound <= optimum
    if found.decision is not None:
        assert violations(problem, found.decision) == []
        assert found.cost == cost(problem, found.decision) >= optimum


@given(SEEDS, st.integers(1, 4), st.sets(st.sampled_from(("crowding", "late"))))
@settings(max_examples=50)
def test_the_search_is_exact_where_kv_is_not_short_and_nothing_waits(seed, num_calls, features):
    problem = roomy(seed, num_calls, features)
    found = best_bound(problem)
    assert found.bound == found.cost == brute_force(problem)[0]


@given(SEEDS, st.integers(5, 9), SOME_FEATURES)
@settings(max_examples=15)
def test_bounds_hold_for_every_decision(seed, num_calls, features):
    problem = random_problem(seed, num_calls, 3, 3, features)
    decisions = [random_decision(problem, order) for order in range(6)]
    for effort in EFFORTS:
        bound = best_bound(problem, decisions[0], effort=effort).bound
        for decision in decisions:
            if all(cost(problem, decision, cap) <= limit for cap, limit in problem.caps):
                assert bound <= cost(problem, decision)


@given(SEEDS, st.integers(2, 7))
@settings(max_examples=20)
def test_numbers_change_nothing(seed, num_calls):
    problem = roomy(seed, num_calls, ("crowding", "late"), 3)
    assert best_bound(renumbered(problem, np.random.default_rng(seed))).bound == best_bound(problem).bound


@given(SEEDS, st.integers(0, 8))
@settings(max_examples=20)
def test_it_ends_when_time_is_up_and_is_right_by_then(seed, questions):
    problem = random_problem(seed, 3, features=("crowding",))
    left = iter([1.0] * questions)
    found = best_bound(problem, seconds_left=lambda: next(left, 0.0))
    assert lower_bound(problem) <= found.bound <= brute_force(problem)[0]


def test_queues_by_hand():
    # One replica, prefills 4, 2 and 6, decode 1, tails 0: shortest first ends at 3, 7, 13. Places alone would do with
    # 3 + 7 + 13 as well; a call of weight 5 with prefill 6 goes first by Smith's rule: 5 * 7 + 9 + 13 = 57, or
    # 2 before it: 3 + 5 * 9 + 13 = 61.
    assert best_bound(make_problem([[4], [2], [6]], [[1]] * 3)).bound == 3 + 7 + 13
    problem = make_problem([[4], [2], [6]], [[1]] * 3, slope=[[1], [1], [5]])
    found = best_bound(problem, earliest_finish(problem, [0, 1, 2]))
    assert found.bound == found.cost == brute_force(problem)[0] == 57


def test_rents_know_that_calls_slow_each_other_down():
    # Two prefill replicas, prefill 1 each; D0 decodes in 2 and 3 more for a second call, D1 in 4. Both on D0: 6 + 6.
    # One on each: 3 + 5 = 8.
    problem = make_problem([[1, 1]] * 2, [[2, 4]] * 2, crowding=[[3, 3]] * 2)
    found = best_bound(problem, earliest_finish(problem, [0, 1]))
    assert found.bound == found.cost == 8


def test_bounds_of_late_counts_are_whole_workflows():
    # Due by 5 with prefills of 4 and decodes of 1 on one replica: one is on time, two cost 3 each.
    problem = make_problem([[4]] * 3, [[1]] * 3, slope=[[0]] * 3, due=[5] * 3, late=[3] * 3)
    assert best_bound(problem, earliest_finish(problem, [0, 1, 2]), effort=1).bound == 6


def test_what_it_knows_nothing_of():
    assert best_bound(make_problem(np.zeros((0, 1), int), np.zeros((0, 1), int))).bound == 0
    assert best_bound(make_problem([[-1]], [[1]])).bound == NEVER
    largest = make_problem([[4]] * 3, [[1]] * 3, aggregate="max")
    assert best_bound(largest).bound == lower_bound(largest)
    dear = make_problem([[4]] * 3, [[1]] * 3, slope=[[2**50]] * 3, free_tick=[2**20])
    assert best_bound(dear).bound == lower_bound(dear)
    with pytest.raises(ValueError, match=r"effort = 4: expected one of 0, 1, 2, 3"):
        best_bound(largest, effort=4)


@given(SEEDS, st.integers(2, 4), SOME_FEATURES)
@settings(max_examples=8)
def test_compiled_is_interpreted(seed, num_calls, features):
    problem = random_problem(seed, num_calls, features=features)
    compiled = best_bound(problem)
    with pytest.MonkeyPatch.context() as patch:
        for module in MODULES:
            for name, function in kernels(module).items():
                patch.setattr(module, name, function.__wrapped__)
                for user in (pool, exact):
                    if hasattr(user, name):
                        patch.setattr(user, name, function.__wrapped__)
        interpreted = best_bound(problem)
    assert (interpreted.bound, interpreted.cost) == (compiled.bound, compiled.cost)


def test_nothing_is_compiled_after_warm_up():
    def signatures():
        return {name: list(f.compiled().signatures) for module in MODULES for name, f in kernels(module).items()}

    warm_up_relaxations()
    warm = signatures()
    assert all(count for name, count in warm.items() if name not in ("_choose_decodes", "_fill_row"))  # called inside
    problem = random_problem(3, 8, 3, 2, ["crowding", "edges", "late"])
    objective = replace(problem.objective, slope=np.asfortranarray(problem.objective.slope), aggregate="sum")
    names = ("prefill_ticks", "decode_ticks", "crowding_ticks", "transfer_base_ticks", "transfer_rate_ticks")
    columns = replace(
        problem, objective=objective, **{name: np.asfortranarray(getattr(problem, name)) for name in names}
    )
    counting = late_count([0] * problem.num_workflows, [9] * problem.num_workflows, objective.tail_ticks, alpha=2.0)
    for other in (problem, columns, pickle.loads(pickle.dumps(columns)), replace(columns, objective=counting)):
        for effort in EFFORTS:
            best_bound(other, effort=effort)
    assert signatures() == warm


def kernels(module):
    return {name: f for name, f in vars(module).items() if hasattr(f, "compiled") and f.__module__ == module.__name__}
