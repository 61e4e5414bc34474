"""The time-slot MILP: exact with slots of a tick, a relaxation with longer ones; its solvers' answers are truthful."""

from dataclasses import replace

import numpy as np
import pytest
from epoch_problems import FEATURES, brute_force, hint_within_caps, random_problem
from hypothesis import given, settings
from hypothesis import strategies as st

from hexsolve.backends import pulp_mip
from hexsolve.backends.outcome import Limits
from hexsolve_models import cost, violations
from hexsolve_models.formulations import milp_slots

LIMITS = Limits(wall_ms=None, deterministic=None, seed=0, workers=1)
SEEDS = st.integers(0, 10**6)


def solved(problem, solver="highs", **options):
    built = milp_slots.build(problem, hint_within_caps(problem), **options)
    return built, pulp_mip.run(built.model, None, LIMITS, solver=solver)


@given(SEEDS, st.integers(1, 3), st.sets(st.sampled_from(FEATURES)))
@settings(max_examples=40, deadline=None)
def test_slots_of_a_tick_have_the_enumerated_optimum(seed, num_calls, features):
    problem = random_problem(seed, num_calls, features=features)
    optimum, _ = brute_force(problem)
    built, outcome = solved(problem, slot_ticks=1)
    assert built.is_exact
    assert (outcome.status, outcome.objective, outcome.bound) == ("OPTIMAL", optimum, optimum)
    decision = built.decode(outcome.values)
    assert violations(problem, decision) == []
    assert cost(problem, decision) == optimum


@pytest.mark.parametrize("seed", range(6))
def test_both_solvers_agree(seed):
    problem = random_problem(seed, 3, features=FEATURES)
    assert solved(problem, "cbc", slot_ticks=1)[1].objective == solved(problem, "highs", slot_ticks=1)[1].objective


@given(SEEDS, st.integers(1, 4), st.sets(st.sampled_from(FEATURES)), st.sampled_from([2, 3, 5]), st.booleans())
@settings(max_examples=60, deadline=None)
def test_longer_slots_and_linear_programs_bound_the_optimum(seed, num_calls, features, slot_ticks, relaxed):
    problem = random_problem(seed, num_calls, features=features)
    optimum, _ = brute_force(problem)
    built, outcome = solved(problem, slot_ticks=slot_ticks, relaxed=relaxed)
    assert not built.is_exact
    assert outcome.bound <= optimum
    if not relaxed:
        decision = built.decode(outcome.values)
        assert [broken for broken in violations(problem, decision) if not broken.startswith("cap")] == []


@pytest.mark.parametrize("solver", ["highs", "cbc"])
def test_a_limit_is_no_proof(solver):
    problem = random_problem(1, 12, 4, 4)
    hint = hint_within_caps(problem)
    built = milp_slots.build(problem, hint, slot_ticks=1)
    outcome = pulp_mip.run(built.model, None, Limits(1.0, None, 0, 1), solver=solver)
    assert outcome.status in ("UNKNOWN", "FEASIBLE", "OPTIMAL")
    if outcome.status != "OPTIMAL":
        assert outcome.bound <= cost(problem, hint)
    assert (outcome.values is None) == (outcome.status == "UNKNOWN")


def test_slot_length_follows_the_limit_on_columns():
    problem = random_problem(3, 8, 3, 3)
    lengths = [milp_slots.slots_for(problem, None, columns)[0] for columns in (10_000, 200, 50)]
    assert lengths == sorted(lengths)
    assert lengths[0] == 1 < lengths[-1]


def test_blocked_calls_have_no_model():
    problem = random_problem(0, 2)
    with pytest.raises(ValueError, match="calls"):
        milp_slots.build(replace(problem, decode_ticks=np.full_like(problem.decode_ticks, -1)))
