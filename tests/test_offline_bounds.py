"""Bounds of a whole instance: arithmetic, decisions of tiny problems, every policy on small clusters, slow twins."""

from fractions import Fraction
from itertools import islice, pairwise
from math import floor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from offline_cases import decisions, line, random_problem
from twin_workloads import cluster, random_workload

from hexsolve.offline import offline_problem
from hexsolve.policies import POLICIES
from hexsolve.sim import mean_stretch, required_scale
from hexsolve.study import run_policy, standalone_ms
from hexsolve_models.offline import finish_ticks, late_count, req, stretches, violations
from hexsolve_models.offline import mean_stretch as exact_mean
from hexsolve_models.offline.bounds import (
    InstanceBounds,
    late_count_bound,
    max_stretch_bound,
    mean_stretch_bound,
    req_bound,
)
from hexsolve_models.offline.bounds.certificate import at_most
from hexsolve_models.offline.bounds.mean import mean_ticks
from hexsolve_models.offline.bounds.paths import paths
from hexsolve_models.offline.bounds.pools import demand, pools_of

NEAR = 2e-3  # what the bisection leaves open
CHECKED = ("prefill", "kv")  # what the referee checks too


# -- arithmetic --------------------------------------------------------------------------------------------------------


def three_in_a_queue():
    """One prefill replica, three workflows of prefill 10 and decode 5 at tick 0: finishes 15, 25, 35."""
    return line([0, 0, 0], [10, 10, 10], [5, 5, 5], reference=[15, 15, 15])


def test_a_queue_of_three():
    # All three on time: 30 ticks of prefill end 5 before the due tick: 15 alpha >= 35. Two: 25. One: 15.
    problem = three_in_a_queue()
    assert max_stretch_bound(problem).alpha == pytest.approx(35 / 15, rel=NEAR)
    assert req_bound(problem, Fraction(2, 3)).alpha == pytest.approx(25 / 15, rel=NEAR)
    assert req_bound(problem, Fraction(1, 3)).alpha == 1.0
    assert mean_stretch_bound(problem).alpha == pytest.approx((15 + 25 + 35) / 45, rel=1e-6)
    assert [late_count_bound(problem, Fraction(a, 15)).count for a in (14, 15, 24, 25, 34, 35)] == [3, 2, 2, 1, 1, 0]


def test_what_binds_is_named():
    bound = max_stretch_bound(three_in_a_queue())
    window = bound.windows[0]
    assert (bound.resource, window.resource, window.start) == ("prefill", "prefill", 0)
    assert window.end == pytest.approx(30, abs=1)
    assert 1.0 < window.load < 1.1
    alone = req_bound(three_in_a_queue(), Fraction(1, 3))
    assert (alone.resource, alone.windows, alone.path) == ("path", (), 1.0)


def test_unrelated_replicas_share_the_work():
    # Ticks 10 and 20 on the two replicas: three calls are 30 ticks at rate 3/2, so 20 and no less: optimal 2 + 1.
    problem = line([0, 0, 0], [[10, 20]] * 3, [0, 0, 0], reference=[10, 10, 10])
    assert max_stretch_bound(problem).alpha == pytest.approx(2.0, rel=NEAR)


def test_a_replica_that_would_be_too_late_does_not_count():
    # On the second replica (100 ticks) nobody is in time below alpha = 10: two calls queue at the first.
    problem = line([0, 0], [[10, 100]] * 2, [0, 0], reference=[10, 10])
    assert max_stretch_bound(problem).alpha == pytest.approx(2.0, rel=NEAR)


def test_kv_energy():
    # Two of 5 blocks fit into 10: four decodes of 10 ticks need 4 * 50 / 10 = 20 ticks, after 1 of prefill each.
    kv = {"kv_blocks": np.full(4, 5), "kv_capacity": np.array([10])}
    problem = line([0] * 4, [0, 0, 0, 0], [10] * 4, reference=[10] * 4, **kv)
    bound = max_stretch_bound(problem)
    assert (bound.resource, bound.alpha) == ("kv", pytest.approx(2.0, rel=NEAR))


def test_decode_work():
    # Four decodes of at least 10 ticks, 8 of them work for the only replica: 32 ticks.
    work = {"decode_work": np.full((4, 1), 8)}
    problem = line([0] * 4, [0] * 4, [10] * 4, reference=[10] * 4, **work)
    bound = max_stretch_bound(problem)
    assert (bound.resource, bound.alpha) == ("decode", pytest.approx(3.2, rel=NEAR))
    assert InstanceBounds(problem, CHECKED).max_stretch().alpha == 1.0


def test_a_chain_is_its_path():
    # 2 + 3, tool 4, 5 + 1: finish 15 after release 7.
    problem = line([7], [2, 5], [3, 1], workflow=[0, 0], edges=[(0, 1, 4)], reference=[10])
    assert paths(problem).finish.tolist() == [22]
    for bound in (max_stretch_bound(problem), mean_stretch_bound(problem)):
        assert (bound.alpha, bound.resource) == (1.5, "path")


def test_heads_and_tails_narrow_the_windows():
    # First calls 10 of prefill, second calls 1 after 10 of decode: both first ends are due 11 before the end: 20 + 11.
    edges = [(0, 1, 0), (2, 3, 0)]
    problem = line([0, 0], [10, 1, 10, 1], [10, 0, 10, 0], workflow=[0, 0, 1, 1], edges=edges, reference=[21, 21])
    assert max_stretch_bound(problem).alpha == pytest.approx(31 / 21, rel=NEAR)


def test_the_largest_are_sacrificed():
    # Prefills 1, 1, 1, 27 in a queue with reference 3: three are on time at alpha = 1, and the fourth is the long one.
    problem = line([0] * 4, [1, 1, 1, 27], [0] * 4, reference=[3] * 4)
    found = late_count_bound(problem, 1)
    assert found.count == 1
    assert np.argmin(found.share) == 3
    assert req_bound(problem, Fraction(3, 4)).alpha == pytest.approx(1.0, rel=NEAR)


def test_nothing_to_do_takes_no_time():
    none = np.zeros((0, 1), dtype=np.int64)
    empty, instant = line([], none, none, reference=[]), line([5], [0], [0], reference=[1])
    for problem in (empty, instant):
        for bound in (req_bound(problem, 0.5), max_stretch_bound(problem), mean_stretch_bound(problem)):
            assert (bound.alpha, bound.resource) == (0.0, "path")
        assert late_count_bound(problem, 0).count == 0


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("q", [0, 1.5, -1.0, float("nan")])
def test_shares_out_of_range(q):
    with pytest.raises(ValueError, match="q = "):
        req_bound(three_in_a_queue(), q)


def test_a_scale_has_to_be_finite():
    with pytest.raises(ValueError, match="alpha = inf"):
        late_count_bound(three_in_a_queue(), float("inf"))


def test_a_call_without_replica_is_named():
    with pytest.raises(ValueError, match="call 1: expected a prefill and a decode replica"):
        InstanceBounds(line([0, 0], [1, -1], [1, 1], reference=[1, 1]))


# -- every decision ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(30))
def test_no_decision_beats_a_bound(seed):
    problem = random_problem(seed, most_workflows=3, most_calls=2)
    bounds = InstanceBounds(problem, CHECKED)
    num = problem.num_workflows
    shares = [Fraction(k, num) for k in range(1, num + 1)]
    least = {q: bounds.req(q) for q in shares}
    alphas = [Fraction(bound.alpha) for bound in least.values()]
    late, mean = [bounds.late_count(alpha).count for alpha in alphas], bounds.mean_stretch()
    for number, decision in enumerate(islice(decisions(problem), 1000)):
        if number % 50 == 0:
            assert violations(problem, decision) == []
        ratios = stretches(problem, finish_ticks(problem, decision))
        for q in shares:
            assert req(ratios, q) >= least[q].alpha
        assert all(late_count(ratios, alpha) >= count for alpha, count in zip(alphas, late, strict=True))
        assert exact_mean(ratios) >= mean.alpha


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_bounds_grow_with_the_share_and_fall_with_the_scale(seed):
    problem = random_problem(seed, most_workflows=7, most_calls=4, replicas=3, decode_work=True)
    bounds = InstanceBounds(problem)
    found = [bounds.req(Fraction(k, 3)).alpha for k in range(1, 4)]
    assert all(low <= high * (1 + NEAR) for low, high in pairwise(found))
    late = [bounds.late_count(Fraction(k, 3)) for k in range(1, 8)]
    assert all(more.count >= less.count for more, less in pairwise(late))
    for bound in late:
        assert bound.count == problem.num_workflows - floor(bound.on_time)
        assert sum(window.weight for window in bound.windows) == pytest.approx(1.0 if bound.windows else 0.0)


# -- every policy ------------------------------------------------------------------------------------------------------

SIMULATED = sorted(set(POLICIES) - {"solver"})


@pytest.mark.parametrize("seed", range(100))
def test_no_simulated_run_beats_a_bound(seed):
    rng = np.random.default_rng(seed)
    tight = seed % 3 == 0
    nodes = cluster(
        int(rng.integers(1, 4)),
        int(rng.integers(1, 4)),
        kv_capacity_tokens=320 if tight else 100_000,
        max_running=int(rng.integers(1, 8)),
        max_batch_tokens=int(rng.choice([64, 512])),
    )
    workload = random_workload(
        seed, num_workflows=6, most_calls=4, spread_ms=float(rng.choice([1.0, 300.0])), reuse=tight
    )
    alone = standalone_ms(nodes, workload)
    bounds = InstanceBounds(offline_problem(workload, nodes, alone))
    least = [(q, bounds.req(q).alpha) for q in (0.5, 0.95, 1.0)]
    mean, late = bounds.mean_stretch().alpha, bounds.late_count(1.2).count
    for policy in (SIMULATED[(3 * seed + k) % len(SIMULATED)] for k in range(3)):
        run = run_policy(nodes, workload, policy, alone)
        for q, alpha in least:
            assert required_scale(run.stretches, q) >= alpha, (policy, q)
        assert mean_stretch(run.stretches) >= mean, policy
        assert int((run.stretches > 1.2).sum()) >= late, policy


# -- slow twins --------------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 30), st.integers(1, 20), st.integers(0, 40))
def test_the_least_overlap_is_that_of_some_start(seed, first, length, slack):
    problem = random_problem(seed, decode_work=True)
    found = paths(problem)
    due = (found.finish + slack)[problem.workflow]
    for pool in pools_of(problem, found):
        asked, kinds = demand(pool, due), pool.capacity.size
        taken = asked.within(first, first + length, np.ones(kinds))
        for c in range(problem.num_calls):
            overlaps = []
            for k in np.flatnonzero(asked.allowed[c]):
                start, end, long = (int(array[c, k]) for array in (pool.start, asked.end, pool.length))
                if pool.in_one_piece:
                    spans = [range(s, s + long) for s in range(start, end - long + 1)]
                    overlaps.append(min(len(set(span) & set(range(first, first + length))) for span in spans))
                else:
                    overlaps.append(long if start >= first and end <= first + length else 0)
            assert taken[c] == min(overlaps, default=0) * pool.height[c]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 6), st.integers(0, 9)), min_size=1, max_size=8))
def test_mean_ticks_are_those_of_a_walk_tick_by_tick(calls):
    start, work, weight = (np.array(column, dtype=np.float64) for column in zip(*calls, strict=True))
    order = np.argsort(start, kind="stable")
    found = mean_ticks.__wrapped__(order, start, work, weight)
    left, at = work.copy(), [[] for _ in calls]
    for tick in range(200):
        ready = [c for c in range(len(calls)) if start[c] <= tick and left[c] > 0]
        if ready:
            c = min(ready, key=lambda c: (-weight[c] / work[c], c))
            at[c].append(tick + 0.5)
            left[c] -= 1
    assert found.tolist() == pytest.approx([np.mean(t) if t else s for t, s in zip(at, start, strict=True)])


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 4), st.integers(1, 7))
def test_a_certificate_holds_whatever_the_multipliers(seed, cuts, items):
    rng = np.random.default_rng(seed)
    factors, possible = rng.uniform(0, 1, (cuts, items)), rng.uniform(size=items) < 0.8
    claimed = at_most(possible, factors, rng.uniform(0, 3, cuts))
    for chosen in range(2**items):
        z = np.array([chosen >> w & 1 for w in range(items)])
        if not (z > possible).any() and (factors @ z <= 1).all():
            assert z.sum() <= claimed
