"""The time-slot MILP against enumeration and CP-SAT, its relaxations against optima and every decision, and what the
back-end makes of HiGHS's and CBC's answers."""

import tempfile
from dataclasses import replace
from functools import cache
from math import inf
from pathlib import Path

import highspy
import numpy as np
import pulp
import pytest
from epoch_problems import FEATURES, brute_force, hint_within_caps, make_problem, random_decision, random_problem
from epoch_problems import renumbered as with_other_numbers
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from scipy.sparse import csr_array

from hexsolve.backends import Limits, ModelError, cpsat, pulp_mip
from hexsolve_models import Objective, cost, violations
from hexsolve_models.formulation import NumberRangeError
from hexsolve_models.formulations import cpsat_full
from hexsolve_models.formulations.milp_slots import build, slots_for
from hexsolve_models.matrix import Draft, MatrixProblem, matrix_of
from hexsolve_models.slots import Slots

LIMITS = Limits(wall_ms=None, deterministic=20.0, seed=0, workers=1)
SEEDS = st.integers(0, 10**6)
SETS_OF_FEATURES = st.sets(st.sampled_from(FEATURES))
COARSE = st.fixed_dictionaries(
    {
        "slot_ticks": st.sampled_from([2, 3, 5]),
        "growth": st.sampled_from([1.0, 1.3, 2.0]),
        "prefill_only": st.sampled_from([None, False, True]),
        "num_levels": st.sampled_from([None, 1, 2]),
    }
)


def a_problem(seed, num_calls, features, num_replicas=2):
    """A random problem and a decision that meets its caps, or (None, None) if a call cannot be placed."""
    problem = random_problem(seed, num_calls, num_replicas, num_replicas, sorted(features))
    hint = hint_within_caps(problem)
    return (None, None) if hint is None else (problem, hint)


def solved(problem, hint=None, solver="highs", **options):
    """The outcome, proved, and its decision, allowed."""
    built = build(problem, hint, **options)
    outcome = pulp_mip.run(built.model, None if hint is None else built.encode(hint), LIMITS, solver=solver)
    assert outcome.status == "OPTIMAL"
    decision = built.decode(outcome.values)
    assert [rule for rule in violations(problem, decision) if not rule.startswith("cap")] == []
    if built.is_exact:
        assert violations(problem, decision) == []
        assert cost(problem, decision) == outcome.objective == outcome.bound
    return outcome, decision


# -- slots of one tick: the problem itself ----------------------------------------------------------------------------


@given(SEEDS, st.integers(1, 4), SETS_OF_FEATURES)
@settings(max_examples=60)
def test_optimum_is_the_enumerated_one(seed, num_calls, features):
    problem, hint = a_problem(seed, num_calls, features)
    if problem is None:
        return
    best, _ = brute_force(problem)
    assert solved(problem, hint, slot_ticks=1)[0].objective == best
    if not problem.caps:
        assert solved(problem, slot_ticks=1)[0].objective == best


@given(SEEDS, st.integers(5, 6), SETS_OF_FEATURES)
@settings(max_examples=10)
def test_optimum_is_that_of_cp_sat(seed, num_calls, features):
    problem, hint = a_problem(seed, num_calls, features)
    if problem is None:
        return
    built = cpsat_full.build(problem, hint)
    other = cpsat.run(built.model, built.encode(hint), LIMITS)
    assert other.status == "OPTIMAL"
    ours = build(problem, hint, slot_ticks=1)
    outcome = pulp_mip.run(ours.model, ours.encode(hint), replace(LIMITS, wall_ms=5_000.0))
    assert outcome.bound <= other.objective <= outcome.objective
    if outcome.status == "OPTIMAL":
        assert outcome.objective == outcome.bound == other.objective


@given(SEEDS, st.integers(1, 6), SETS_OF_FEATURES)
@settings(max_examples=60)
def test_a_decision_is_a_point_of_the_exact_model_and_back(seed, num_calls, features):
    problem, hint = a_problem(seed, num_calls, features)
    if problem is None:
        return
    built = build(problem, hint, slot_ticks=1)
    values = built.encode(hint)
    assert built.is_exact
    assert built.model.matrix.violation(values) == 0
    assert built.model.matrix.objective(values) == cost(problem, hint)
    assert built.decode(values) == hint


@given(SEEDS, st.integers(2, 4), SETS_OF_FEATURES)
@settings(max_examples=15)
def test_renumbering_leaves_the_optimum_and_the_relaxation(seed, num_calls, features):
    problem, _ = a_problem(seed, num_calls, features - {"caps"})
    if problem is None:
        return
    other = with_other_numbers(problem, np.random.default_rng(seed))
    for options in ({"slot_ticks": 1}, {"slot_ticks": 3}):
        assert solved(problem, **options)[0].objective == solved(other, **options)[0].objective


# -- longer slots: a relaxation ---------------------------------------------------------------------------------------


@given(SEEDS, st.integers(1, 4), SETS_OF_FEATURES, COARSE)
@settings(max_examples=150)
def test_relaxations_bound_the_optimum(seed, num_calls, features, options):
    problem, hint = a_problem(seed, num_calls, features)
    if problem is None:
        return
    best, _ = brute_force(problem)
    whole, decision = solved(problem, hint, **options)
    part, rounded = solved(problem, hint, relaxed=True, **options)
    assert part.bound <= whole.objective == whole.bound <= best
    assert part.objective - 1e-6 <= part.bound < part.objective + 1  # rounded up, no more
    if not problem.caps:
        assert best <= min(cost(problem, decision), cost(problem, rounded))


@given(SEEDS, st.integers(1, 9), SETS_OF_FEATURES, COARSE)
@settings(max_examples=200)
def test_every_decision_is_a_point_of_the_relaxation_at_no_higher_cost(seed, num_calls, features, options):
    problem, hint = a_problem(seed, num_calls, features, num_replicas=3)
    if problem is None:
        return
    built = build(problem, hint, **options)
    assert not built.is_exact
    values = built.encode(hint)
    assert built.model.matrix.violation(values) == 0
    assert built.model.matrix.objective(values) <= cost(problem, hint)
    # Through the slots only order and replicas remain; a timetable of them is allowed, caps apart.
    decision = built.decode(values)
    assert [rule for rule in violations(problem, decision) if not rule.startswith("cap")] == []


@given(SEEDS, st.integers(1, 6), COARSE)
@settings(max_examples=40)
def test_any_values_decode_to_an_allowed_decision(seed, num_calls, options):
    problem, hint = a_problem(seed, num_calls, {"crowding", "edges"})
    if problem is None:
        return
    built = build(problem, hint, **options)
    noise = np.random.default_rng(seed).uniform(-0.1, 1.1, built.model.matrix.num_columns)
    for values in (noise, np.zeros_like(noise)):
        assert violations(problem, built.decode(values.tolist())) == []


def test_slots_by_hand():
    # Prefills 3 and 3 on one replica, decodes 1: 4 + 7 = 11. Slots [0, 1], [2, 3], [4, 5], ... of two ticks. The first
    # call from slot 0 surely runs at tick 1, no later one; both from slot 0: two columns at T = 1, not allowed. One
    # from slot 1 may start at 2: 4 + (2 + 3 + 1) = 10. But by T = 3 that has done at least 3 + 1 = 4 ticks of 4, fine.
    problem = make_problem([[3], [3]], [[1], [1]])
    assert solved(problem, slot_ticks=1)[0].objective == 11
    assert solved(problem, slot_ticks=2)[0].objective == 10
    # A third such call: from slot 2 at 4, and by T = 5 the work surely done is 3 + 3 + 1 = 7 > 6: slot 3, at 6 at the
    # earliest. 4 + 6 + 10 = 20, where the truth is 4 + 7 + 10 = 21.
    three = make_problem([[3]] * 3, [[1]] * 3)
    assert solved(three, slot_ticks=1)[0].objective == 21
    assert solved(three, slot_ticks=2)[0].objective == 20


def test_kv_slots_by_hand():
    # Two locked decodes of 6 of 10 blocks, 5 ticks each: 5 + 10 = 15. Slots of 3 from tick 0: T = 2, 5, 8, ... One from
    # slot 0 surely runs over T = 2 alone (2 <= T < 5), so the other may be in slot 1, at 3 at the earliest: 5 + 8.
    problem = make_problem([[-1], [-1]], [[5], [5]], kv=[6, 6], capacity=[10], locked=[0, 0])
    assert solved(problem, slot_ticks=1, prefill_only=False)[0].objective == 15
    assert solved(problem, slot_ticks=3, prefill_only=False)[0].objective == 13


def test_steps_count_in_the_slot_they_fall_into():
    # One workflow of two calls, prefills 4 and 4, decodes 1: done at 9. Late after 7 costs 100, and no slope: in slots
    # of 2 the second call is from slot 2 (ticks 4, 5) on: 4 + 4 + 1 = 9 > 7.
    problem = make_problem([[4], [4]], [[1], [1]], workflow=[0, 0], slope=[[0]], due=[7], late=[100])
    assert solved(problem, slot_ticks=2)[0].objective == 100
    assert solved(replace(problem, objective=replace(problem.objective, due_tick=[9])), slot_ticks=2)[0].objective == 0


def test_crowding_counts_at_home_by_hand():
    # Two calls, one decode replica, decode 2 and 3 more for each call beyond the first: prefills of 1 on a replica
    # each, both done at 1 + 5 = 6: 12. Without decode starts the second level of the replica says so too.
    problem = make_problem([[1, -1], [-1, 1]], [[2], [2]], crowding=[[3], [3]], uncrowded=[1])
    assert solved(problem, slot_ticks=1)[0].objective == 12
    assert solved(problem, slot_ticks=2, prefill_only=True)[0].objective == 12
    assert solved(problem, slot_ticks=2, prefill_only=False, num_levels=2)[0].objective == 12
    # With a second replica where decode takes 4, one call each: 1 + 2 + 1 + 4 = 8.
    apart = make_problem([[1, -1], [-1, 1]], [[2, 4], [2, 4]], crowding=[[3, 3]] * 2, uncrowded=[1, 1])
    assert solved(apart, slot_ticks=1)[0].objective == 8
    assert solved(apart, slot_ticks=2, prefill_only=True)[0].objective == 8


def test_slots_grow_and_cover():
    uniform, growing = Slots(3), Slots(2, 1.5, 20)
    ticks = np.arange(40)
    assert uniform.of(ticks).tolist() == [tick // 3 for tick in range(40)]
    # Lengths 2, 3, 4.5 -> 4, 6.75 -> 6, 10.1 -> 10: they begin at 0, 2, 5, 9, 15, 25.
    begins = [int(growing.first(growing.of(tick))) for tick in (0, 1, 2, 4, 5, 8, 9, 14, 15, 24)]
    assert begins == [0, 0, 2, 2, 5, 5, 9, 9, 15, 15]
    for slots in (uniform, growing):
        inside = slots.of(ticks)
        assert (slots.first(inside) <= ticks).all()
        assert (ticks <= slots.last(inside)).all()
        assert (slots.first(inside[ticks > 0]) > slots.last(inside[ticks > 0] - 1)).all()


@given(SEEDS, st.integers(2, 8), SETS_OF_FEATURES, st.integers(10, 400))
@settings(max_examples=40)
def test_columns_stay_within_what_is_asked_for(seed, num_calls, features, max_columns):
    problem, hint = a_problem(seed, num_calls, features)
    if problem is None:
        return
    built = build(problem, hint, max_columns=max_columns)
    assert (built.slots.ticks, built.slots.growth) == slots_for(problem, hint, max_columns)
    # No fewer than one column for each place of each call can be had; levels of replicas come on top.
    places = int(problem.prefill_allowed.sum() + problem.decode_allowed.sum())
    levels = (num_calls + 1) * problem.num_decode
    assert built.model.matrix.integer.sum() <= max(max_columns, places) + levels


def test_small_problems_are_exact_by_default_and_large_ones_are_not():
    problem = random_problem(3, 4)
    assert build(problem).is_exact
    assert not build(problem, max_columns=30).is_exact
    assert not build(problem, relaxed=True).is_exact
    crowded = random_problem(3, 4, features=["crowding"])
    assert build(crowded, slot_ticks=1).is_exact
    assert not build(crowded, slot_ticks=1, num_levels=1).is_exact


def test_bad_options_are_named():
    problem = random_problem(3, 2)
    for name in ("slot_ticks", "growth", "max_columns", "num_levels"):
        with pytest.raises(ValueError, match=f"{name} = 0: expected a number >= 1"):
            build(problem, **{name: 0})
    with pytest.raises(ValueError, match=r"calls \[0\] have no replica"):
        build(make_problem([[1]], [[1]], kv=[9], capacity=[8]))
    with pytest.raises(ValueError, match=r"slots of 1 ticks make \d+ columns: expected at most"):
        build(make_problem([[2**24]] * 2, [[2**24]] * 2), slot_ticks=1)


def test_ticks_may_be_far_away():
    assert solved(make_problem([[2**24]], [[2**24]], release=[2**24]))[0].bound <= 3 * 2**24


def test_a_start_outside_the_model_is_refused():
    # Costs 2 on D0 and 90 on D1: with the cheap incumbent D1 cannot appear.
    near = random_decision(make_problem([[1]], [[1]]), 0)
    with pytest.raises(ValueError, match="call 0 on replica 1 at 1: not among the starts"):
        build(make_problem([[1]], [[1, 89]]), near).encode(replace(near, decode=[1]))


@pytest.mark.parametrize("aggregate", ["sum", "max"])
def test_costs_beyond_thirteen_digits_are_refused(aggregate):
    problem = make_problem([[2**10]], [[2**10]], slope=[[2**40, 2**41]], intercept=[[0, -1]], aggregate=aggregate)
    with pytest.raises(NumberRangeError, match=r"expected below 2\^43"):
        build(problem)
    beyond = Objective([[2**50]], [[0]], [2**31 - 1], [0], aggregate)
    with pytest.raises(NumberRangeError, match=r"2\^62: expected below 2\^43"):
        build(replace(problem, objective=beyond))


# -- matrices ---------------------------------------------------------------------------------------------------------


@given(SEEDS, st.integers(1, 5), COARSE)
@settings(max_examples=30)
def test_dual_bounds_hold_for_any_duals_and_meet_the_optimum_for_the_right_ones(seed, num_calls, options):
    problem, hint = a_problem(seed, num_calls, {"crowding"})
    if problem is None:
        return
    m = build(problem, hint, relaxed=True, **options).model.matrix
    rows = csr_array((m.factor, m.column, m.row_start), shape=(m.num_rows, m.num_columns)).toarray()
    equal = m.row_lower == m.row_upper
    below, above = np.isfinite(m.row_upper) & ~equal, np.isfinite(m.row_lower) & ~equal
    # An LP solver of its own, in SciPy.
    other = linprog(
        m.cost,
        A_ub=np.vstack([rows[below], -rows[above]]),
        b_ub=np.concatenate([m.row_upper[below], -m.row_lower[above]]),
        A_eq=rows[equal],
        b_eq=m.row_lower[equal],
        bounds=np.stack([m.lower, m.upper], axis=1),
    )
    optimum = other.fun + m.offset
    duals = np.zeros(m.num_rows)
    duals[equal] = other.eqlin.marginals
    duals[below], duals[above] = np.split(other.ineqlin.marginals, [int(below.sum())])
    duals[above] *= -1
    slack = 1e-6 * (1 + abs(optimum))
    assert optimum - slack <= m.dual_bound(duals) <= optimum + slack
    noise = duals + np.random.default_rng(seed).normal(0, 1 + abs(duals).max(), duals.size)
    assert m.dual_bound(noise) <= optimum + slack


def test_dual_bounds_by_hand():
    # min -v, v <= 5 by a row whose dual is -1. A dual of 1 has no lower side of the row to rest on and counts as 0.
    def bound(upper, dual):
        draft = Draft()
        draft.cost(draft.columns(1, upper), -1.0)
        draft.rows(1, np.array([0]), np.array([0]), upper=5)
        return draft.matrix().dual_bound(np.array([dual]))

    assert -5.001 < bound(9, -1.0) <= -5
    assert -9.001 < bound(9, 1.0) <= -9
    assert bound(9, np.nan) == bound(9, 0.0)
    assert bound(inf, 1.0) == -inf
    assert bound(inf, -1.0) == -inf  # rounding could have hidden a reduced cost


@given(SEEDS, st.integers(1, 5), SETS_OF_FEATURES)
@settings(max_examples=20)
def test_pulp_sees_the_same_model(seed, num_calls, features):
    problem, hint = a_problem(seed, num_calls, features)
    if problem is None:
        return
    built = build(problem, hint, slot_ticks=3)
    model, ours = built.model, built.model.matrix
    model.materialise()
    theirs = matrix_of(model)
    for name in ("offset", "cost", "lower", "upper", "integer", "row_start", "row_lower", "row_upper"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), name)
    values = built.encode(hint)
    for column, value in zip(model.variables(), values, strict=True):
        column.varValue = value
    assert model.valid()
    assert model.objective.value() == ours.objective(values)
    np.testing.assert_array_equal(ours.activity(values), theirs.activity(values))


# -- the back-end -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("relaxed", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_cbc_and_highs_agree(seed, relaxed):
    problem, hint = a_problem(seed, 4, FEATURES)
    for options in ({"slot_ticks": 1}, {"slot_ticks": 3}, {"slot_ticks": 3, "prefill_only": True}):
        highs, _ = solved(problem, hint, "highs", relaxed=relaxed, **options)
        cbc, _ = solved(problem, hint, "cbc", relaxed=relaxed, **options)
        assert highs.objective == pytest.approx(cbc.objective, abs=1e-5)
        assert highs.bound == cbc.bound


@cache
def hard():
    """Eight calls that neither solver proves at once, with a hint and the optimum, in a model of one-tick slots."""
    problem, hint = a_problem(5, 8, {"late"}, num_replicas=3)
    other = cpsat_full.build(problem, hint)
    best = cpsat.run(other.model, other.encode(hint), LIMITS)
    assert best.status == "OPTIMAL"
    return problem, hint, best.objective, build(problem, hint, slot_ticks=1)


@pytest.mark.parametrize("solver", ["highs", "cbc"])
@pytest.mark.parametrize("wall_ms", [0.0, 1.0, 60.0, 400.0])
def test_outcomes_are_true_at_any_limit(solver, wall_ms):
    problem, hint, best, built = hard()
    outcome = pulp_mip.run(built.model, built.encode(hint), replace(LIMITS, wall_ms=wall_ms), solver=solver)
    assert outcome.status in ("OPTIMAL", "FEASIBLE", "UNKNOWN")
    assert outcome.bound <= best <= outcome.objective
    assert (outcome.values is None) == (outcome.status == "UNKNOWN") == (outcome.objective == inf)
    if outcome.values is not None:
        assert outcome.objective <= cost(problem, hint)
        # A first solution's cost columns need not be tight yet.
        assert cost(problem, built.decode(outcome.values)) <= outcome.objective
    if outcome.status == "OPTIMAL":
        assert outcome.objective == outcome.bound


def test_highs_starts_from_the_hint():
    problem, hint, _, built = hard()
    outcome = pulp_mip.run(built.model, built.encode(hint), replace(LIMITS, deterministic=0.0))
    assert outcome.status in ("FEASIBLE", "OPTIMAL")
    assert outcome.objective <= cost(problem, hint)


@pytest.mark.parametrize("wall_ms", [0.0, 1.0, 5.0, 20.0])
def test_an_lp_that_is_cut_off_still_bounds(wall_ms):
    problem, hint, *_ = hard()
    built = build(problem, hint, relaxed=True, slot_ticks=1)
    whole = pulp_mip.run(built.model, None, replace(LIMITS, deterministic=None))
    outcome = pulp_mip.run(built.model, None, replace(LIMITS, wall_ms=wall_ms))
    assert whole.status == "OPTIMAL"
    assert -inf < outcome.bound <= whole.bound
    assert (outcome.values is None) == (outcome.status == "UNKNOWN")


def test_an_lp_under_an_iteration_limit_repeats():
    problem, hint, *_ = hard()
    built = build(problem, hint, relaxed=True, slot_ticks=1)
    limits = replace(LIMITS, deterministic=0.005)
    first, second = (pulp_mip.run(built.model, None, limits) for _ in range(2))
    assert first.status == "UNKNOWN"
    assert (first.bound, first.deterministic_time) == (second.bound, second.deterministic_time)
    assert first.deterministic_time <= 0.006


def test_threads_may_change_between_solves():
    problem, _ = a_problem(1, 3, ())
    for workers in (1, 2, 1):
        outcome = pulp_mip.run(build(problem).model, None, replace(LIMITS, workers=workers))
        assert outcome.status == "OPTIMAL"


def test_every_answer_of_highs_has_a_status():
    assert set(pulp_mip.HIGHS_STATUS) == set(highspy.HighsModelStatus.__members__.values())
    assert set(pulp_mip.HIGHS_STATUS.values()) == {"OPTIMAL", "FEASIBLE", "UNKNOWN", "INFEASIBLE", None}


def test_every_answer_of_cbc_has_a_status():
    assert set(pulp_mip.CBC_STATUS) == set(pulp.LpSolution)


def plain(upper=None, at_least=1.5):
    """min x + 2 y + 10, x + y >= at_least, x whole: a problem of anyone's in PuLP."""
    problem = pulp.LpProblem("plain")
    x, y = problem.add_variable("x", 0, 1, pulp.LpInteger), problem.add_variable("y", 0, upper)
    problem += x + 2 * y + 10
    problem += x + y >= at_least
    return problem


@pytest.mark.parametrize("solver", ["highs", "cbc"])
def test_any_pulp_problem_runs(solver):
    # x = 1, y = 0.5: 10 + 1 + 1 = 12. The bound is not rounded up: costs need not be whole.
    outcome = pulp_mip.run(plain(upper=9), [1, 0.5], LIMITS, solver=solver)
    assert (outcome.status, outcome.values) == ("OPTIMAL", [1.0, 0.5])
    assert outcome.objective == pytest.approx(12)
    assert 12 - 1e-4 < outcome.bound <= 12


@pytest.mark.parametrize("solver", ["highs", "cbc"])
def test_an_infeasible_model_says_so(solver):
    outcome = pulp_mip.run(plain(upper=1, at_least=3), None, LIMITS, solver=solver)
    assert (outcome.status, outcome.values, outcome.objective, outcome.bound) == ("INFEASIBLE", None, inf, -inf)


@pytest.mark.parametrize("solver", ["highs", "cbc"])
def test_an_unbounded_model_is_an_error(solver):
    problem = pulp.LpProblem("plain")
    problem += -1 * problem.add_variable("y", 0)
    problem += problem.add_variable("x", 0, 1, pulp.LpInteger) >= 0.5
    with pytest.raises(ModelError, match=r"[Uu]nbounded"):
        pulp_mip.run(problem, None, LIMITS, solver=solver)


def test_only_minimisations_run():
    with pytest.raises(ValueError, match="problem p maximises: expected a minimisation"):
        pulp_mip.run(pulp.LpProblem("p", pulp.LpMaximize), None, LIMITS)


def test_an_invalid_model_is_an_error():
    matrix = build(random_problem(1, 2)).model.matrix
    broken = replace(matrix, column=np.full_like(matrix.column, matrix.num_columns))
    with pytest.raises(ModelError, match="HiGHS refused the model"):
        pulp_mip.run(MatrixProblem("broken", broken), None, LIMITS)


def test_cbc_leaves_no_files_and_neither_says_anything(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("TMPDIR", "TMP"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.chdir(tmp_path)
    problem, hint = a_problem(1, 3, ())
    for solver in ("highs", "cbc"):
        solved(problem, hint, solver)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_a_missing_cbc_is_one_clear_error(monkeypatch):
    monkeypatch.setattr(pulp_mip.shutil, "which", lambda _: None)
    with pytest.raises(pulp_mip.SolverNotFoundError, match="CBC: no executable `cbc` on the search path, none at"):
        pulp_mip.run(plain(), None, LIMITS, solver="cbc")


def in_place_of_cbc(monkeypatch, folder: Path, script: str):
    file = folder / "cbc"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    monkeypatch.setattr(pulp_mip, "cbc_path", lambda: str(file))


def test_a_cbc_that_hangs_is_killed(monkeypatch, tmp_path):
    in_place_of_cbc(monkeypatch, tmp_path, "exec sleep 600")
    monkeypatch.setattr(pulp_mip, "_GRACE_S", 0.1)
    outcome = pulp_mip.run(plain(), None, replace(LIMITS, wall_ms=100.0), solver="cbc")
    assert (outcome.status, outcome.bound) == ("UNKNOWN", -inf)


def test_a_cbc_that_fails_is_an_error_with_its_words(monkeypatch, tmp_path):
    in_place_of_cbc(monkeypatch, tmp_path, "echo out of luck; exit 3")
    with pytest.raises(ModelError, match="CBC ended with code 3: 'out of luck'"):
        pulp_mip.run(plain(), None, LIMITS, solver="cbc")


@pytest.mark.parametrize(("wall_ms", "status"), [(60_000.0, "INFEASIBLE"), (1_000.0, "UNKNOWN")])
def test_what_cbc_calls_infeasible_near_its_time_limit_is_not_believed(monkeypatch, tmp_path, wall_ms, status):
    # Its preprocessing says so of feasible models when the limit cuts it short.
    says = 'echo "Infeasible - objective value 0.00000000"'
    in_place_of_cbc(monkeypatch, tmp_path, f'sleep 0.8; for last in "$@"; do :; done; {says} > "$last"')
    outcome = pulp_mip.run(plain(), None, replace(LIMITS, wall_ms=wall_ms), solver="cbc")
    assert (outcome.status, outcome.values, outcome.bound) == (status, None, -inf)
