"""Exact offline formulations: CP-SAT = MILP = enumeration on tiny instances, and what must not change an optimum."""

from dataclasses import fields
from fractions import Fraction

import numpy as np
import pytest
from offline_problems import best_by_enumeration, instance, random_instance, renumbered

from hexsolve_models.offline import OfflineProblem, violations
from hexsolve_models.offline.goal import MAX_STRETCH, MEAN_STRETCH, late_count, req
from hexsolve_models.offline.solve import solve

GOALS = {
    "max": MAX_STRETCH,
    "mean": MEAN_STRETCH,
    "late": late_count(Fraction(5, 2)),
    "req50": req(Fraction(1, 2)),
}
SEEDS = range(24)


@pytest.mark.parametrize("seed", SEEDS)
def test_both_formulations_reach_the_enumerated_optimum(seed):
    problem = random_instance(seed, scarce=seed % 2 == 1)
    optima = best_by_enumeration(problem, list(GOALS.values()))
    for (name, goal), optimum in zip(GOALS.items(), optima, strict=True):
        for method in ("cpsat", "milp"):
            outcome = solve(problem, goal, limit_s=60, method=method)
            found = (outcome.status, outcome.objective, outcome.bound)
            assert found == ("OPTIMAL", optimum, optimum), f"{name} by {method}"
            assert violations(problem, outcome.decision) == []
            assert goal.value(problem, outcome.decision) == optimum


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("name", ["max", "late"])
def test_names_do_not_matter(seed, name):
    problem = random_instance(1000 + seed, scarce=seed % 2 == 1)
    values = {solve(p, GOALS[name], limit_s=60).objective for p in (problem, renumbered(problem, seed))}
    assert len(values) == 1


@pytest.mark.parametrize("seed", range(8))
def test_another_replica_never_hurts(seed):
    # Also a test of twins: the added prefill replica is a copy of the first one.
    problem = random_instance(2000 + seed)
    doubled = {
        "prefill_ticks": np.hstack([problem.prefill_ticks, problem.prefill_ticks[:, :1]]),
        "prefill_work": np.hstack([problem.prefill_work, problem.prefill_work[:, :1]]),
        "transfer_base_ticks": np.vstack([problem.transfer_base_ticks, problem.transfer_base_ticks[:1]]),
        "transfer_rate_ticks": np.vstack([problem.transfer_rate_ticks, problem.transfer_rate_ticks[:1]]),
    }
    more = OfflineProblem(**{f.name: getattr(problem, f.name) for f in fields(problem)} | doubled)
    for goal in GOALS.values():
        with_it = solve(more, goal, limit_s=60)
        assert with_it.status == "OPTIMAL"
        assert with_it.objective <= solve(problem, goal, limit_s=60).objective
    assert solve(more, MAX_STRETCH, limit_s=60).objective == best_by_enumeration(more, [MAX_STRETCH])[0]


def test_stretches_are_told_apart_however_close():
    # Two calls of 1 + 0 ticks on one replica: one ends at 1, one at 2. Last is the one with the larger reference:
    # 2/1000001 < 2/1000000, and 2/1000001 > 1/1000000.
    problem = instance(
        workflow=[0, 1],
        release_tick=[0, 0],
        reference_ticks=[1_000_000, 1_000_001],
        ready_lag=[0, 0],
        prefill_ticks=[[1], [1]],
        transfer_blocks=[0, 0],
        decode_ticks=[[0], [0]],
        decode_work=[[0], [0]],
        kv_blocks=[1, 1],
    )
    outcome = solve(problem, MAX_STRETCH, limit_s=60)
    assert (outcome.status, outcome.objective) == ("OPTIMAL", Fraction(2, 1_000_001))


def test_progress_only_gets_better():
    outcome = solve(random_instance(7), MEAN_STRETCH, limit_s=60)
    seconds, objectives, bounds = zip(*outcome.progress, strict=True)
    assert list(seconds) == sorted(seconds)
    assert list(objectives) == sorted(objectives, reverse=True)
    assert list(bounds) == sorted(bounds)
    assert outcome.progress[-1][1:] == (outcome.objective, outcome.bound)
    assert outcome.gap == 0.0


@pytest.mark.parametrize(
    ("limits", "message"), [({"limit_s": 0}, "limit_s = 0"), ({"limit_s": 1, "workers": 0}, "workers = 0")]
)
def test_limits_out_of_range(limits, message):
    with pytest.raises(ValueError, match=message):
        solve(instance(), MAX_STRETCH, **limits)


def test_an_incumbent_has_to_be_allowed():
    problem = instance()
    good = solve(problem, MAX_STRETCH, limit_s=60).decision
    bad = type(good)(good.prefill, good.decode, good.prefill_start, good.decode_start - 1)
    with pytest.raises(ValueError, match="incumbent: expected an allowed decision, got call 0: decode starts at 2"):
        solve(problem, MAX_STRETCH, limit_s=60, incumbent=bad)
