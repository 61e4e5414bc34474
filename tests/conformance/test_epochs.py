"""Every path to a decision, on epochs whose optimum is known by hand. New formulations and components join by being."""

from itertools import permutations
from math import ceil

import numpy as np
import pytest
from conformance.epochs import EPOCHS, Epoch
from epoch_problems import brute_force

from hexsolve import components
from hexsolve.backends import Limits
from hexsolve.solve import Status, solve
from hexsolve_models import Decision, Problem, cost, earliest_finish, formulations, violations
from hexsolve_models.bounds import lower_bound

EACH_EPOCH = pytest.mark.parametrize("epoch", EPOCHS, ids=lambda epoch: epoch.__name__)
HINTED = pytest.mark.parametrize("hinted", [False, True], ids=["cold", "hinted"])
BACK_ENDS = {"cpsat": ("cpsat",), "pulp": ("highs", "cbc")}
PATHS = [(name, solver) for name in formulations.names() for solver in BACK_ENDS[formulations.load(name).NATIVE]]
LIMITS = Limits(wall_ms=None, deterministic=10.0, seed=0, workers=1)


def dearest(problem: Problem) -> Decision:
    """The worst list schedule that is allowed: a hint with much to improve."""
    schedules = (earliest_finish(problem, order) for order in permutations(range(problem.num_calls)))
    allowed = [decision for decision in schedules if not violations(problem, decision)]
    return max(allowed, key=lambda decision: cost(problem, decision))


@EACH_EPOCH
def test_enumeration(epoch: Epoch) -> None:
    problem, optimum = epoch()
    best = brute_force(problem)
    assert best is not None
    assert best[0] == optimum


@HINTED
@pytest.mark.parametrize(("formulation", "solver"), PATHS)
@EACH_EPOCH
def test_formulations(epoch: Epoch, formulation: str, solver: str, hinted: bool) -> None:
    problem, optimum = epoch()
    hint = dearest(problem) if hinted or problem.caps else None  # caps come with a decision that meets them
    built = formulations.load(formulation).build(problem, hint)
    start = None if hint is None else built.encode(hint)
    if solver == "cpsat":
        from hexsolve.backends import cpsat

        outcome = cpsat.run(built.model, start, LIMITS)
    else:
        from hexsolve.backends import pulp_mip

        outcome = pulp_mip.run(built.model, start, LIMITS, solver=solver)
    assert outcome.status == "OPTIMAL"
    assert outcome.values is not None
    decision = built.decode(outcome.values)
    assert violations(problem, decision) == []
    if built.is_exact:
        assert cost(problem, decision) == round(outcome.objective) == ceil(outcome.bound - 1e-3) == optimum
    else:
        assert cost(problem, decision) >= optimum


@HINTED
@pytest.mark.parametrize("component", components.names())
@EACH_EPOCH
def test_components(epoch: Epoch, component: str, hinted: bool) -> None:
    problem, optimum = epoch()
    hint = dearest(problem) if hinted else ()
    result = solve(problem, deterministic=0.01, hint=hint, steps=[component])
    assert result.bound <= optimum
    if result.has_decision:
        assert violations(problem, result.decision) == []
        assert cost(problem, result.decision) == result.objective >= optimum
    else:
        assert problem.caps  # nothing else keeps a list schedule from being a decision
        assert not hinted


@HINTED
@EACH_EPOCH
def test_portfolio_proves_the_optimum(epoch: Epoch, hinted: bool) -> None:
    problem, optimum = epoch()
    result = solve(problem, deterministic=0.05, hint=dearest(problem) if hinted else ())
    assert (result.status, result.objective, result.bound) == (Status.OPTIMAL, optimum, optimum)
    assert violations(problem, result.decision) == []


@EACH_EPOCH
def test_bound(epoch: Epoch) -> None:
    problem, optimum = epoch()
    assert lower_bound(problem) <= optimum


def test_some_epoch_is_crowded_capped_late_and_has_edges() -> None:
    problems = [epoch()[0] for epoch in EPOCHS]
    assert any(problem.is_crowdable for problem in problems)
    assert any(problem.edge_before.size for problem in problems)
    assert any(np.any(problem.objective.late_weight) for problem in problems)
    assert any(problem.caps for problem in problems)
