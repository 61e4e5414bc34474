"""The CP-SAT window: an allowed decision of the whole problem, better where the head of the queues can be better."""

import numpy as np
import pytest
from epoch_problems import FEATURES, brute_force, hint_within_caps, make_problem, random_problem
from hypothesis import assume, given, reject, settings
from hypothesis import strategies as st

from hexsolve.backends import Limits
from hexsolve.backends.cpsat import run
from hexsolve_models import Decision, cost, violations
from hexsolve_models.formulations.cpsat_window import build
from hexsolve_models.restriction import NoPartError, head

LIMITS = Limits(wall_ms=None, deterministic=20.0, seed=0, workers=1)
SEEDS = st.integers(0, 10**6)
SOME_FEATURES = st.sets(st.sampled_from(FEATURES))


def solved(formulation, incumbent):
    outcome = run(formulation.model, formulation.encode(incumbent), LIMITS)
    assert outcome.status == "OPTIMAL"
    return formulation.decode(outcome.values), outcome.objective


@given(SEEDS, st.integers(2, 7), st.integers(1, 4), SOME_FEATURES)
@settings(max_examples=60, deadline=None)
def test_a_window_gives_an_allowed_decision(seed, num_calls, size, features):
    problem = random_problem(seed, num_calls, 3, 3, features)
    incumbent = hint_within_caps(problem)
    try:
        formulation = build(problem, incumbent, size=size)
    except NoPartError:
        reject()
    assert formulation.is_exact == (size >= num_calls)
    decision, _ = solved(formulation, incumbent)
    # Caps may be broken by the calls behind the window: the judge of the whole decides.
    assert [broken for broken in violations(problem, decision) if not broken.startswith("cap")] == []
    outside = np.argsort(incumbent.priority_order(problem), kind="stable") >= size
    if not problem.edge_before.size:
        assert (decision.prefill[outside] == incumbent.prefill[outside]).all()
        assert (decision.decode[outside] == incumbent.decode[outside]).all()


@given(SEEDS, st.integers(1, 4), SOME_FEATURES)
@settings(max_examples=30, deadline=None)
def test_a_window_of_all_calls_is_the_full_schedule(seed, num_calls, features):
    problem = random_problem(seed, num_calls, features=features)
    incumbent = hint_within_caps(problem)
    decision, objective = solved(build(problem, incumbent, size=4), incumbent)
    assert cost(problem, decision) == objective == brute_force(problem)[0]


@given(SEEDS, st.integers(2, 5), SOME_FEATURES)
@settings(max_examples=40, deadline=None)
def test_the_window_itself_is_solved_to_its_optimum(seed, num_calls, features):
    problem = random_problem(seed, num_calls, features=features)
    incumbent = hint_within_caps(problem)
    calls = np.sort(incumbent.priority_order(problem)[:3])
    assume(calls.size < num_calls)
    try:
        formulation = build(problem, incumbent, calls=calls)
    except NoPartError:
        reject()
    _, objective = solved(formulation, incumbent)
    assert objective == brute_force(head(problem, incumbent, calls))[0]


def test_a_window_by_hand():
    # One queue, prefills 5, 1, 2, 2, decodes 1. In that order 6 + 7 + 9 + 11. The first two exchanged: 2 + 7 + 9 + 11.
    problem = make_problem([[5], [1], [2], [2]], [[1]] * 4)
    incumbent = Decision([0] * 4, [0] * 4, [0, 5, 6, 8], [5, 6, 8, 10])
    decision, _ = solved(build(problem, incumbent, size=2), incumbent)
    assert decision.prefill_start.tolist() == [1, 0, 6, 8]
    assert cost(problem, decision) == 29
    # Without an incumbent the list schedule is one. Calls 1 and 2 alone go first: 1 and 3, then 0 and 3.
    decision, _ = solved(build(problem, calls=[1, 2]), incumbent)
    assert decision.prefill_start.tolist() == [3, 0, 1, 8]


def test_bad_windows():
    with pytest.raises(ValueError, match="size = 0: expected >= 1"):
        build(make_problem([[1]], [[1]]), size=0)
    with pytest.raises(ValueError, match=r"calls \[0\] have no replica"):
        build(make_problem([[1]], [[1]], kv=[9], capacity=[8]))
