"""Every path to a decision, on epochs whose optimum is known by hand."""

import numpy as np
import pytest
from conformance.epochs import EPOCHS, Epoch
from epoch_problems import brute_force

from hexsolve.solve import Status, solve
from hexsolve_models import earliest_finish, violations
from hexsolve_models.bounds import lower_bound


@pytest.mark.parametrize("epoch", EPOCHS, ids=lambda epoch: epoch.__name__)
def test_enumeration(epoch: Epoch) -> None:
    problem, optimum = epoch()
    best = brute_force(problem)
    assert best is not None
    assert best[0] == optimum


@pytest.mark.parametrize("hinted", [False, True], ids=["cold", "hinted"])
@pytest.mark.parametrize("epoch", EPOCHS, ids=lambda epoch: epoch.__name__)
def test_cpsat(epoch: Epoch, hinted: bool) -> None:
    problem, optimum = epoch()
    hint = earliest_finish(problem, np.arange(problem.num_calls)[::-1]) if hinted else None
    result = solve(problem, deterministic=10.0, hint=hint)
    assert (result.status, result.objective, result.bound) == (Status.OPTIMAL, optimum, optimum)
    assert violations(problem, result.decision) == []


@pytest.mark.parametrize("epoch", EPOCHS, ids=lambda epoch: epoch.__name__)
def test_bound(epoch: Epoch) -> None:
    problem, optimum = epoch()
    assert lower_bound(problem) <= optimum
