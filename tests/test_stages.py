"""Lexicographic stages against enumeration, and what each stage passes on to the next."""

from dataclasses import replace

import numpy as np
import pytest
from epoch_problems import brute_force, make_problem, random_decision, random_problem
from hypothesis import given, settings
from hypothesis import strategies as st

from hexsolve import components, stages
from hexsolve.errors import InputError
from hexsolve.solve import Status, solve
from hexsolve.stages import Stage, solve_stages
from hexsolve_models import cost, earliest_finish, late_count, power, violations

SEEDS = st.integers(0, 10**6)
SOME_FEATURES = st.sets(st.sampled_from(["crowding", "edges", "late"]))


def two_stages(problem, seed=0):
    """Late workflows first, then the sum of powers."""
    rng = np.random.default_rng(seed)
    elapsed = rng.integers(0, 10, problem.num_workflows)
    horizon = rng.integers(5, 20, problem.num_workflows)
    tail = problem.objective.tail_ticks
    return [
        Stage("late", late_count(elapsed, horizon, tail, alpha=1.5)),
        Stage("power", power(elapsed, horizon, tail, k=4, scale=1000)),
    ]


def lexicographic(problem, todo):
    """By enumeration, stage by stage."""
    optima = []
    for stage in todo:
        problem = replace(problem, objective=stage.objective)
        optima.append(brute_force(problem)[0])
        problem = replace(problem, caps=(*problem.caps, (stage.objective, optima[-1])))
    return optima


@given(SEEDS, st.integers(1, 3), SOME_FEATURES)
@settings(max_examples=20, deadline=None)
def test_the_lexicographic_optimum_is_the_enumerated_one(seed, num_calls, features):
    problem = random_problem(seed, num_calls, features=features)
    todo = two_stages(problem, seed)
    staged = solve_stages(problem, todo, deterministic=0.1, hint=[random_decision(problem, seed)])
    assert staged.is_proved
    assert [result.objective for result in staged.results] == lexicographic(problem, todo)
    assert [cost(problem, staged.decision, stage.objective) for stage in todo] == lexicographic(problem, todo)
    assert violations(problem, staged.decision) == []


def test_the_order_of_stages_matters_by_hand():
    # Prefills 5, 4, 4 on one replica, decodes 1, cost 3, 1, 1 per tick, dues 9. Cheapest: 3 * 6 + 10 + 14 = 42 with two
    # late. Fewest late: one, and then 5 + 9 + 3 * 14 = 56.
    prefill, decode = [[5], [4], [4]], [[1]] * 3
    problem = make_problem(prefill, decode, slope=[[3], [1], [1]])
    late = Stage("late", make_problem(prefill, decode, slope=[[0]] * 3, due=[9] * 3, late=[1] * 3).objective)
    price = Stage("price", problem.objective)
    hint = [earliest_finish(problem, [0, 1, 2])]
    first, second = (
        [result.objective for result in solve_stages(problem, todo, deterministic=0.3, hint=hint).results]
        for todo in ([late, price], [price, late])
    )
    assert first == [1, 56]
    assert second == [42, 2]


@pytest.mark.parametrize("component", ["local_search", "cpsat_full"])
@given(SEEDS, st.integers(2, 6), SOME_FEATURES)
@settings(max_examples=20, deadline=None)
def test_caps_of_earlier_stages_are_respected(component, seed, num_calls, features):
    problem = random_problem(seed, num_calls, features=features)
    late, price = two_stages(problem, seed)
    hint = random_decision(problem, seed)
    first = solve(
        replace(problem, objective=late.objective), deterministic=1e-3, hint=hint, steps=[component], seed=seed
    )
    capped = replace(problem, objective=price.objective, caps=((late.objective, int(first.objective)),))
    second = solve(capped, deterministic=1e-3, hint=first.decision, steps=[component], seed=seed)
    assert violations(capped, second.decision) == []
    assert cost(problem, second.decision, late.objective) <= first.objective
    assert second.objective <= cost(capped, first.decision)
    assert not second.stop_reason.detail.startswith(component)  # nothing it said was turned down


@given(SEEDS, st.integers(2, 8))
@settings(max_examples=20, deadline=None)
def test_a_stage_never_gives_back_what_an_earlier_one_has(seed, num_calls):
    problem = random_problem(seed, num_calls, 3, 3)
    todo = [*two_stages(problem, seed), Stage("own", problem.objective)]
    staged = solve_stages(problem, todo, deterministic=1e-3, hint=[random_decision(problem, seed)], seed=seed)
    for stage, result in zip(todo, staged.results, strict=True):
        assert cost(problem, staged.decision, stage.objective) <= result.objective
    assert staged.is_proved == all(result.status is Status.OPTIMAL for result in staged.results)


def test_time_left_over_goes_to_the_next_stage(monkeypatch):
    budgets = []

    def record(problem, *, budget_ms, **options):
        budgets.append(budget_ms)
        return solve(problem, budget_ms=0.0, hint=options["hint"])

    monkeypatch.setattr(stages, "solve", record)
    problem = random_problem(3, 5)
    late, price = two_stages(problem)
    todo = [replace(late, share=0.25), replace(price, share=0.5), Stage("own", problem.objective, share=0.1)]
    solve_stages(problem, todo, budget_ms=100_000.0, hint=[random_decision(problem, 0)])
    # The stages use next to nothing: a quarter, a half and all of the whole budget.
    assert budgets == pytest.approx([25_000, 50_000, 100_000], rel=0.2)


def test_without_a_budget_stages_have_no_wall_limit(monkeypatch):
    seen = []

    def record(problem, **options):
        seen.append((options["budget_ms"], options["deterministic"], options["seed"], len(problem.caps)))
        return solve(problem, budget_ms=0.0, hint=options["hint"])

    monkeypatch.setattr(stages, "solve", record)
    problem = random_problem(3, 5)
    solve_stages(problem, two_stages(problem), deterministic=0.5, seed=7)
    assert seen == [(None, 0.5, 7, 0), (None, 0.5, 7, 1)]


def test_no_budget_at_all_keeps_the_hint(monkeypatch):
    monkeypatch.setattr(components, "run", None)
    problem = random_problem(1, 6)
    hint = random_decision(problem, 1)
    staged = solve_stages(problem, two_stages(problem), budget_ms=0.0, hint=[hint])
    assert len(staged.results) == 2
    assert staged.decision == hint


def test_what_cannot_be_placed_ends_with_the_first_stage():
    problem = make_problem([[1], [1]], [[1], [1]], kv=[1, 9], capacity=[8])
    todo = two_stages(problem)
    staged = solve_stages(problem, todo)
    assert [result.status for result in staged.results] == [Status.INFEASIBLE]
    assert not staged.is_proved
    with pytest.raises(LookupError, match="infeasible"):
        staged.decision  # noqa: B018


def test_no_stage_is_refused():
    with pytest.raises(InputError, match="stages is empty"):
        solve_stages(make_problem([[1]], [[1]]), [])
