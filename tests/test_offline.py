"""Offline problems relax the simulator: every run, rounded to ticks, is a decision that is at least as good."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from twin_workloads import LINE, TABLE, cluster, one_call_each, profile, random_workload

from hexsolve.errors import InputError
from hexsolve.offline import offline_problem
from hexsolve.policies import POLICIES
from hexsolve.profile import PrefillLine, PrefillTable
from hexsolve.sim import simulate, stretches
from hexsolve.study.run import build_engine, standalone_ms
from hexsolve_models.offline import OfflineDecision, finish_ticks, violations
from hexsolve_models.offline import stretches as offline_stretches
from hexsolve_models.offline.goal import MAX_STRETCH, MEAN_STRETCH, late_count, req
from hexsolve_models.offline.solve import solve

LIST_POLICIES = sorted(set(POLICIES) - {"solver"})
PREFILL_TABLE = PrefillTable(
    new_tokens=(8.0, 64.0, 200.0),
    prefix_tokens=(0.0, 50.0, 150.0),
    latency_ms=((3.0, 3.5, 5.0), (6.0, 7.5, 8.0), (14.0, 18.0, 19.0)),
)
WORLDS = {
    "lines": cluster(2, 2, speed=profile(), max_batch_tokens=300),
    "tables": cluster(2, 2, speed=profile(decode=TABLE, prefill=PREFILL_TABLE, kappa=1.1), max_batch_tokens=250),
    "little KV": cluster(2, 2, kv_capacity_tokens=480, prefill_kv_tokens=320, bandwidth_gb_s=0.2, max_batch_tokens=100),
    "unequal": replace(
        cluster(2, 2, links={("p0", "d1"): 0.1}),
        decode=(
            cluster(1, 1).decode[0],
            replace(cluster(1, 2, speed=profile(decode=TABLE)).decode[1], max_running=2),
        ),
    ),
}


def decision_of(problem, result, tick_ms):
    """The run as an offline decision: calls of a batch one after the other from its start, decodes when they joined."""
    first = np.cumsum([0, *(len(workflow.calls) for workflow in result.workload.workflows)])
    columns = np.zeros((4, problem.num_calls), dtype=np.int64)
    used = {}
    for record in result.records():
        c = first[record.workflow] + record.call
        batch = record.prefill, record.prefill_start_ms
        start = int(record.prefill_start_ms / tick_ms + 1e-6) + used.get(batch, 0)
        used[batch] = used.get(batch, 0) + int(problem.prefill_work[c, record.prefill])
        columns[:, c] = record.prefill, record.decode, start, int(record.decode_start_ms / tick_ms + 1e-6)
    return OfflineDecision(*columns)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("world", sorted(WORLDS))
def test_every_run_is_a_decision_at_least_as_good(world, seed):
    where = WORLDS[world]
    workload = random_workload(
        seed, num_workflows=12, most_calls=8, most_output=40, spread_ms=150.0, reuse=seed % 2 == 1
    )
    alone = standalone_ms(where, workload)
    problem = offline_problem(workload, where, alone, tick_ms=0.05)
    goals = MAX_STRETCH, MEAN_STRETCH, req(Fraction(3, 4)), late_count(Fraction(3, 2))
    for policy in LIST_POLICIES[seed % 3 :: 3]:
        result = simulate(where, workload, build_engine(where, policy))
        assert result.counters.pushbacks == 0
        decision = decision_of(problem, result, 0.05)
        assert violations(problem, decision) == [], policy
        reached = offline_stretches(problem, finish_ticks(problem, decision))
        simulated = stretches(result.arrival_ms, result.finish_ms, alone)
        assert (np.array([float(ratio) for ratio in reached]) <= simulated + 1e-9).all(), policy
        simulated_exactly = [Fraction(float(ratio)) + Fraction(1, 10**9) for ratio in simulated]
        assert all(goal.of(reached) <= goal.of(simulated_exactly) for goal in goals)
        work = [problem.decode_work[decision.decode == d, d].sum() * 0.05 for d in range(problem.num_decode)]
        assert (np.array(work) <= result.decode_busy_ms + 1e-6).all()


@pytest.mark.parametrize("seed", range(6))
def test_no_run_beats_a_proved_bound(seed):
    where = WORLDS[sorted(WORLDS)[seed % 4]]
    workload = random_workload(100 + seed, num_workflows=4, most_calls=4, spread_ms=30.0, reuse=True)
    alone = standalone_ms(where, workload)
    problem = offline_problem(workload, where, alone)
    bound = {goal: solve(problem, goal, limit_s=1).bound for goal in (MAX_STRETCH, MEAN_STRETCH)}
    for policy in LIST_POLICIES:
        result = simulate(where, workload, build_engine(where, policy))
        simulated = [Fraction(float(r)) for r in stretches(result.arrival_ms, result.finish_ms, alone)]
        assert all(float(least) <= float(goal.of(simulated)) + 1e-9 for goal, least in bound.items()), policy


@pytest.mark.parametrize("seed", range(4))
def test_unknown_lengths_allow_for_calls_that_come_back(seed):
    # Little KV and bad predictions: calls are pushed back and decoded in parts; every finish still has its least time.
    where = WORLDS["little KV"]
    workload = random_workload(200 + seed, num_workflows=10, most_calls=5, most_output=120, spread_ms=50.0)
    alone = standalone_ms(where, workload)
    problem = offline_problem(workload, where, alone, lengths_known=False)
    bound = solve(problem, MAX_STRETCH, limit_s=1).bound
    pushbacks = 0
    for policy in LIST_POLICIES[::4]:
        result = simulate(where, workload, build_engine(where, policy), predictor="noisy:1.0", seed=seed)
        pushbacks += result.counters.pushbacks
        assert float(bound) <= stretches(result.arrival_ms, result.finish_ms, alone).max() + 1e-9
    assert pushbacks > 0


def test_one_call_by_hand():
    # 100 new tokens: max(3, 5) + 2 + 0.01 = 7.01 ms; no two fit a batch. Transfer: 2 + 3 ms, and 9.6 for 6 whole
    # blocks of 16 tokens of 100 kB at 1 GB/s; numbers on the dot become a tick less. Decode of 2: 5.7 and 5.702.
    world = cluster(max_batch_tokens=150)
    problem = offline_problem(one_call_each([4.06], [100], 2), world, [30.0])
    assert problem.prefill_ticks.tolist() == problem.prefill_work.tolist() == [[70]]
    assert problem.transfer(0).tolist() == [[49 + 95]]
    assert problem.decode_ticks.tolist() == [[114]]
    assert (problem.release_tick.tolist(), problem.kv_blocks.tolist()) == ([40], [7])


def test_a_batch_of_small_calls_shares_what_it_costs():
    # Budget 150: three calls of 50 fit, at 2 + 7.5 ms and 1e-6 * 2500 each: 9.5 / 3 of work, but 5.0025 of time.
    world = cluster(max_batch_tokens=150, speed=profile(prefill=PrefillLine(2.0, 0.05, 1e-6, 3.0), decode=LINE))
    problem = offline_problem(one_call_each([0.0] * 3, [50] * 3, 2), world, [30.0] * 3)
    assert problem.prefill_ticks.tolist() == [[50]] * 3
    assert problem.prefill_work.tolist() == [[31]] * 3


@pytest.mark.parametrize(
    ("alone", "options", "message"),
    [
        ([1.0], {}, r"alone_ms: expected \[2\] with at least one, got \[1\]"),
        ([1.0, 0.0], {}, r"alone_ms\[1\]: expected a finite number > 0, got 0.0"),
        ([1.0, 2.0], {"tick_ms": 0.0}, "tick_ms: expected a finite number > 0, got 0.0"),
        ([1.0, 2.0], {"tick_ms": 1e-12}, "tick_ms: expected at least"),
    ],
)
def test_what_is_refused(alone, options, message):
    with pytest.raises(InputError, match=message):
        offline_problem(one_call_each([0.0, 5.0], [10, 20]), cluster(), alone, **options)


def test_a_call_that_fits_nowhere_is_named():
    with pytest.raises(InputError, match=r"call 'c': expected at most 2 KV blocks .* got 3"):
        offline_problem(one_call_each([0.0], [40]), cluster(kv_capacity_tokens=32), [1.0])
