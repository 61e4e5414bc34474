"""The translator between snapshots and problems, and the comparison of plans."""

from dataclasses import replace

import numpy as np
import pytest
from small_states import IN_FLIGHT, adopt, busy_state, cluster, mixed_cluster, profile, push, ready

from hexsolve.crowding import _LEAST_SHARE, decode_lines
from hexsolve.epoch import (
    EpochParams,
    carry_over,
    projected,
    projected_cost,
    projected_key,
    projects_better,
    to_problem,
)
from hexsolve.errors import InputError
from hexsolve.listplan import held_spans, plan_by_risk, plan_in_order, world_of
from hexsolve.policies.round_robin import RoundRobin
from hexsolve.projection import step_ms
from hexsolve.settle import settled_finish_ms
from hexsolve.state import ClusterState
from hexsolve.stretch_cost import StretchCost, lost
from hexsolve.tables import DECODE, WAIT_DECODE
from hexsolve_models import cost, earliest_finish, violations

SEEDS = range(12)


def epoch(seed, **params):
    """A busy snapshot with tight KV, its greedy plan, problem and index."""
    state = busy_state(seed, mixed_cluster(kv_tokens=(3_000, 40_000)[seed % 2]))
    snapshot = state.snapshot(state.clock_ms + 1.0)
    greedy = plan_by_risk(snapshot)
    problem, index = to_problem(snapshot, greedy, EpochParams(**params))
    return snapshot, greedy, problem, index


def test_times_are_rounded_up_to_ticks():
    # 101 tokens: prefill 20.1 -> 21; base 2 -> 2; 0.1 ms per token is 1638.4 -> 1639 ticks per 1024 blocks of 16;
    # prefill free at 7.5 -> 8. Decode 50 tokens of 10.01 ms = 500.5 -> 501.
    state = ClusterState(cluster(decode=(profile(decode=(10.01, 0.0, 0.0)),)))
    ready(state, tokens=(101, 50))
    state.prefill_batch(0.0, 0, 7.5)
    snapshot = state.snapshot(0.0)
    problem, _ = to_problem(snapshot, plan_by_risk(snapshot), EpochParams())
    assert problem.prefill_ticks.tolist() == [[21]]
    assert problem.transfer_base_ticks.tolist() == [[2]]
    assert problem.transfer_rate_ticks.tolist() == [[1639]]
    assert problem.transfer_blocks.tolist() == [7]
    assert problem.prefill_free_tick.tolist() == [8]
    assert problem.decode_ticks.tolist() == [[501]]
    assert problem.kv_blocks.tolist() == [10]  # 151 tokens


def test_whole_milliseconds_stay_whole():
    # 100 tokens at 10 + 0.1 ms: 20 exactly, not 21 for the rounding error of a float; in ticks of 0.1 ms: 200.
    state = ClusterState(cluster())
    ready(state)
    snapshot = state.snapshot(0.0)
    for tick_ms, ticks in ((1.0, 20), (0.1, 200), (3.0, 7)):
        problem, _ = to_problem(snapshot, plan_by_risk(snapshot), EpochParams(tick_ms=tick_ms))
        assert problem.prefill_ticks.tolist() == [[ticks]]


def test_decode_durations_are_those_of_the_batch_that_the_greedy_plan_runs():
    # Step 10 + 2·B. One running call until the end of its 1000 tokens: the new one decodes in a batch of two.
    state = ClusterState(cluster(decode=(profile(decode=(10.0, 2.0, 0.0)),)))
    first = ready(state, tokens=(100, 1000))
    adopt(state, plan_by_risk(state.snapshot(0.0)))
    push(state, first, 0.0, "decode")
    ready(state, tokens=(16, 10))
    snapshot = state.snapshot(0.0)
    greedy = plan_by_risk(snapshot)
    problem, _ = to_problem(snapshot, greedy, EpochParams())
    assert problem.decode_ticks.tolist() == [[10 * (10 + 2 * 2)]]


@pytest.mark.parametrize("seed", SEEDS)
def test_held_intervals_are_what_runs_and_stay_within_capacity(seed):
    snapshot, _, problem, _ = epoch(seed)
    stages = snapshot.calls["stage"]
    assert problem.held_decode.size == np.isin(stages, (*IN_FLIGHT, DECODE)).sum()
    assert np.all(problem.held_start >= 0)
    for d in range(problem.num_decode):
        here = problem.held_decode == d
        running_now = problem.held_blocks[here & (problem.held_start == 0)].sum()  # may exceed it: told, not planned
        for tick in problem.held_start[here]:
            overlapping = here & (problem.held_start <= tick) & (tick < problem.held_end)
            assert problem.held_blocks[overlapping].sum() <= max(problem.kv_capacity[d], running_now)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_greedy_decision_breaks_no_rule(seed):
    snapshot, greedy, problem, index = epoch(seed)
    decision = index.decision_of(problem, index.greedy)
    assert violations(problem, decision) == []
    assert np.array_equal(decision.decode, greedy.decode[index.positions])
    locked = snapshot.calls["stage"][snapshot.waiting[index.positions]] == WAIT_DECODE
    assert np.array_equal(problem.locked_decode >= 0, locked)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_decision_becomes_a_plan_of_every_waiting_call(seed):
    _, greedy, problem, index = epoch(seed, max_calls=6)
    assert problem.num_calls == 6
    decision = earliest_finish(problem, np.arange(6)[::-1])
    plan = index.to_plan(problem, decision, "test")
    assert np.array_equal(plan.serials, greedy.serials)
    assert sorted(plan.rank.tolist()) == list(range(len(greedy)))
    assert np.array_equal(plan.prefill[index.positions], decision.prefill)
    assert np.array_equal(plan.decode[index.positions], decision.decode)
    outside = np.setdiff1d(np.arange(len(greedy)), index.positions)
    assert set(plan.rank[index.positions]) == set(range(6))
    assert np.all(np.diff(plan.rank[outside][np.argsort(greedy.rank[outside])]) > 0)
    assert np.array_equal(plan.decode[outside], greedy.decode[outside])


# -- decode lines ------------------------------------------------------------------------------------------------------


def lines_by_hand(snapshot, plan, positions):
    """`decode_lines` one call and replica at a time, as its docstring says it."""
    world, spans = world_of(snapshot), held_spans(snapshot)
    rows = snapshot.waiting[positions]
    calls = snapshot.calls
    context = calls["input_tokens"] + 0.5 * calls["predicted_tokens"]
    starts, finishes, home = plan.start_ms[positions], plan.finish_ms[positions], plan.decode[positions]
    alone, more = np.full((2, len(rows), len(snapshot.decodes)), np.inf)
    more[:] = 0.0
    for i, row in enumerate(rows):
        running = np.flatnonzero((spans[:, 0] <= starts[i]) & (starts[i] < spans[:, 1]))
        planned = [j for j in range(len(rows)) if j != i and starts[j] <= starts[i] < finishes[j]]
        overlap = [
            max(0.0, min(finishes[i], finishes[j]) - max(starts[i], starts[j])) / (finishes[i] - starts[i])
            for j in range(len(rows))
            if j != i
        ]
        shared = np.mean(overlap) if overlap else 0.0
        for d, replica in enumerate(snapshot.decodes):
            if replica["up"] == 0 or calls["kv_blocks"][row] > replica["capacity_blocks"]:
                continue
            beside = [context[r] for r in running if calls["decode"][r] == d]
            beside += [context[rows[j]] for j in planned if home[j] == d]
            batch, total = 1 + len(beside), context[row] + sum(beside)

            def step(batch, total, kind=replica["kind"]):
                return step_ms(world.knots, world.knot_count, world.grid, kind, float(batch), total / batch)

            tokens = max(1.0, float(calls["predicted_tokens"][row]))
            now = step(batch, total)
            more[i, d] = tokens * max(0.0, step(batch + 1, total + context[rows].mean()) - now) * shared
            count = np.sum(home == d) + (home[i] != d)
            alone[i, d] = max(_LEAST_SHARE * tokens * now, tokens * now - count * more[i, d])
    return alone, more


@pytest.mark.parametrize("seed", SEEDS)
def test_decode_lines_are_those_of_their_definition(seed):
    state = busy_state(seed, mixed_cluster(kv_tokens=(3_000, 40_000)[seed % 2]))
    if seed % 3 == 0:
        state.replica_down(state.clock_ms, "decode", 2)
    snapshot = state.snapshot(state.clock_ms + 1.0)
    greedy = plan_by_risk(snapshot)
    positions = np.flatnonzero(np.isfinite(greedy.finish_ms))[::-1]
    lines = decode_lines(snapshot, greedy, positions, held_spans(snapshot))
    for got, expected in zip(lines, lines_by_hand(snapshot, greedy, positions), strict=True):
        assert np.allclose(got, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
def test_crowded_decode_times_of_the_greedy_plan_are_the_projection_s(seed):
    # The projection prices a call in the batch that it joins, of what is running and was placed before it: where the
    # plan puts nobody there later, the line at the plan's own count is the same decode time, up to the ticks' rounding
    # and, beside running calls, their context (half of their output here, what they have by now in the projection).
    snapshot, greedy, problem, index = epoch(seed, tick_ms=0.01)
    at, everyone = index.positions, np.arange(problem.num_calls)
    decision = index.decision_of(problem, greedy)
    ticks = problem.decode_ticks[everyone, decision.decode] + problem.crowding(decision.decode)
    starts, finishes, home, rank = greedy.start_ms[at], greedy.finish_ms[at], greedy.decode[at], greedy.rank[at]
    spans, decodes_now = held_spans(snapshot), snapshot.calls["stage"] == DECODE
    compared = 0
    for i in everyone:
        joins_later = (home == home[i]) & (rank > rank[i]) & (starts <= starts[i]) & (starts[i] < finishes)
        is_floored = problem.decode_ticks[i, home[i]] <= _LEAST_SHARE * ticks[i] * 1.001
        if joins_later.any() or is_floored:
            continue
        compared += 1
        running = decodes_now & (snapshot.calls["decode"] == home[i]) & (starts[i] < spans[:, 1])
        rounding = 0.01 * (np.sum(home == home[i]) + 2)  # each crowding tick is rounded, and counts that often
        slack = rounding + (0.02 * (finishes[i] - starts[i]) if running.any() else 0.0)
        assert ticks[i] * 0.01 == pytest.approx(finishes[i] - starts[i], abs=slack)
    assert compared >= 2


def test_nobody_is_slowed_down_where_steps_do_not_grow():
    state = busy_state(1, mixed_cluster(batch_aware=False))
    snapshot = state.snapshot(state.clock_ms)
    problem, _ = to_problem(snapshot, plan_by_risk(snapshot), EpochParams())
    assert not problem.crowding_ticks.any()
    assert not problem.is_crowdable


# -- what plans cost ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exponent", [1, 3, 8])
@pytest.mark.parametrize("reference", [0.7, 3.0])
def test_the_curve_is_the_power_between_its_ends_and_straight_beyond(exponent, reference):
    curve = StretchCost(exponent, reference)
    for x in (0.5, 0.8, 1.0, 1.25):
        assert curve.total(np.array([x * reference])) == pytest.approx(x**exponent)
    steps = np.diff([curve.total(np.array([x * reference])) for x in (1.25, 1.5, 1.75, 2.0)])
    assert steps == pytest.approx([0.25 * exponent * 1.25 ** (exponent - 1)] * 3)
    assert curve.total(np.array([0.0])) >= 0.0
    assert curve.total(np.array([reference, 1.1 * reference])) == pytest.approx(1.0 + 1.1**exponent)


@pytest.mark.parametrize(("exponent", "error"), [(1, 0.02), (2, 0.02), (4, 0.02), (6, 0.035)])
def test_the_problem_s_pieces_are_the_curve_within_a_few_percent(exponent, error):
    curve = StretchCost(exponent, 2.5)
    horizon = np.array([400, 1_000, 90_000])
    elapsed = np.array([0, 900, 20_000])
    objective = curve.objective(elapsed, horizon, np.zeros(3, int), np.zeros(3, int))
    scale = curve.total(np.array([2.5]))  # 1, as the problem's 10^8
    for w in range(3):
        for x in (0.5, 0.62, 0.75, 0.9, 1.0, 1.1, 1.24, 1.4, 2.0, 5.0):
            finish = round(x * 2.5 * horizon[w]) - elapsed[w]
            if finish < 0:
                continue
            ratio = (elapsed[w] + finish) / horizon[w]
            expected = 1e8 * curve.total(np.array([ratio])) / scale
            assert objective.workflow_cost(w, int(finish)) == pytest.approx(expected, rel=error)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("exponent", [1, 8])
def test_projected_cost_is_the_curve_at_each_workflow_s_worst_ratio(seed, exponent):
    snapshot, greedy, _, _ = epoch(seed)
    curve = StretchCost.around(snapshot, greedy, exponent)
    worst, told = {}, []
    for i, row in enumerate(greedy.rows):
        call = snapshot.calls[row]
        told.append((greedy.finish_ms[i] - call["arrival_ms"]) / call["horizon_ms"])
        ratio = (settled_finish_ms(snapshot, greedy)[i] - call["arrival_ms"]) / call["horizon_ms"]
        worst[call["workflow"]] = max(worst.get(call["workflow"], 0.0), ratio)
    assert (curve.exponent, curve.reference) == (exponent, pytest.approx(max(told)))
    expected = sum(curve.total(np.array([ratio])) for ratio in worst.values())
    assert projected_cost(snapshot, greedy, curve) == pytest.approx(expected)
    assert projected_key(snapshot, greedy, curve) == (0, projected_cost(snapshot, greedy, curve))


@pytest.mark.parametrize("seed", SEEDS)
def test_with_a_target_lost_workflows_count_for_a_hundredth_in_problem_and_plan(seed):
    snapshot, greedy, _, _ = epoch(seed)
    calls = snapshot.calls[greedy.rows]
    own_ms = calls["alone_finish_ms"] - calls["alone_start_ms"]
    needed = (snapshot.now_ms + own_ms - calls["arrival_ms"]) / calls["horizon_ms"]
    target = float(np.median(needed))
    is_lost = lost(snapshot, greedy.rows, target)
    assert np.array_equal(is_lost, needed > target)
    params = EpochParams(target=target)
    curve = params.curve(snapshot, greedy)
    assert (curve.reference, curve.target) == (target, target)
    workflows = np.unique(calls["workflow"])
    gone = np.array([is_lost[calls["workflow"] == w].any() for w in workflows])
    finish = settled_finish_ms(snapshot, greedy)
    ratio = (finish - calls["arrival_ms"]) / calls["horizon_ms"]
    worst = np.array([ratio[calls["workflow"] == w].max() for w in workflows])
    alike = StretchCost(curve.exponent, target)
    assert np.array_equal(curve.worth(snapshot, greedy.rows, *_workflows(calls)), np.where(gone, 0.01, 1.0))
    expected = sum(alike.total(worst[w : w + 1]) / (100 if gone[w] else 1) for w in range(len(workflows)))
    assert projected_cost(snapshot, greedy, curve) == pytest.approx(expected)
    problem, _ = to_problem(snapshot, greedy, params)
    full = alike.objective(*_ages(snapshot, greedy, workflows))
    for w, share in enumerate(np.where(gone, 100, 1)):
        for finish_tick in (10**3, 10**5, 10**7):
            expected = full.workflow_cost(w, finish_tick) / share
            assert problem.objective.workflow_cost(w, finish_tick) == pytest.approx(expected, rel=0.1, abs=300)


@pytest.mark.parametrize("seed", SEEDS)
def test_what_a_workflow_counts_for_grows_with_what_it_has_waited(seed):
    snapshot, greedy, _, _ = epoch(seed)
    calls = snapshot.calls[greedy.rows]
    params = EpochParams(exponent=1, urgency=3.0)
    curve = params.curve(snapshot, greedy)
    workflow, num_workflows = _workflows(calls)
    worth = curve.worth(snapshot, greedy.rows, workflow, num_workflows)
    ends = snapshot.now_ms + calls["alone_finish_ms"] - calls["alone_start_ms"]
    alone = (ends - calls["arrival_ms"]) / calls["horizon_ms"]
    latest = np.array([alone[workflow == w].max() for w in range(num_workflows)])
    assert worth == pytest.approx(((latest + 0.25) / (latest.max() + 0.25)) ** 3.0)
    finish = settled_finish_ms(snapshot, greedy)
    ratio = (finish - calls["arrival_ms"]) / calls["horizon_ms"]
    expected = sum(worth[w] * ratio[workflow == w].max() / curve.reference for w in range(num_workflows))
    assert projected_cost(snapshot, greedy, curve) == pytest.approx(expected)
    problem, index = to_problem(snapshot, greedy, params)
    decision = index.decision_of(problem, greedy)
    at = index.positions
    of_problem = (decision.decode_finish(problem) + snapshot.now_ms - calls["arrival_ms"][at]) / calls["horizon_ms"][at]
    of_workflows = [worth[w] * of_problem[workflow[at] == w].max() for w in np.unique(workflow[at])]
    assert cost(problem, decision) == pytest.approx(1e8 * sum(of_workflows) / curve.reference, rel=0.02)
    alike = replace(params, urgency=0.0).curve(snapshot, greedy)
    assert np.array_equal(alike.worth(snapshot, greedy.rows, workflow, num_workflows), np.ones(num_workflows))


def _workflows(calls):
    """[n] index of each call's workflow among those of the calls, and how many those are."""
    workflows, workflow = np.unique(calls["workflow"], return_inverse=True)
    return workflow, len(workflows)


def _ages(snapshot, greedy, workflows):
    """What `StretchCost.objective` takes, by workflow in the problem's order; calls as the greedy plan has them."""
    calls = snapshot.calls[greedy.rows]
    first = [int(np.flatnonzero(calls["workflow"] == w)[0]) for w in workflows]
    elapsed = np.ceil(snapshot.now_ms - calls["arrival_ms"][first]).astype(int)
    tail = np.zeros(len(calls), int)
    return elapsed, np.ceil(calls["horizon_ms"][first]).astype(int), tail, np.ones(len(calls), int)


def test_a_plan_that_places_fewer_calls_is_not_better():
    state = busy_state(1, mixed_cluster())
    snapshot = state.snapshot(state.clock_ms)
    greedy = plan_by_risk(snapshot)
    finish = greedy.finish_ms.copy()
    finish[np.argmax(finish)] = np.inf
    fewer = type(greedy)(**{f: getattr(greedy, f) for f in greedy.__dataclass_fields__} | {"finish_ms": finish})
    curve = StretchCost.around(snapshot, greedy, 8)
    assert projected_cost(snapshot, fewer, curve) < projected_cost(snapshot, greedy, curve)
    assert projected_key(snapshot, fewer, curve)[0] == 1
    assert not projects_better(snapshot, fewer, greedy, EpochParams())
    assert projects_better(snapshot, greedy, fewer, EpochParams())
    assert not projects_better(snapshot, greedy, greedy, EpochParams())


@pytest.mark.parametrize(("margin", "price", "better"), [(0.0, 0.995, True), (0.01, 0.995, False), (0.01, 0.985, True)])
def test_a_plan_has_to_be_cheaper_by_more_than_the_margin(monkeypatch, margin, price, better):
    state = busy_state(1, mixed_cluster())
    snapshot = state.snapshot(state.clock_ms)
    than = plan_by_risk(snapshot)
    plan = replace(than, provenance="landed")
    keys = {"landed": (0, price), than.provenance: (0, 1.0)}
    monkeypatch.setattr("hexsolve.epoch.projected_key", lambda snapshot, plan, curve: keys[plan.provenance])
    assert projects_better(snapshot, plan, than, EpochParams(margin=margin)) is better


def test_a_plan_without_projection_can_be_projected():
    state = busy_state(2, mixed_cluster())
    snapshot = state.snapshot(state.clock_ms)
    plan = RoundRobin().plan(snapshot)
    told = projected(snapshot, plan)
    assert np.isfinite(told.finish_ms).all()
    for column in ("prefill", "decode", "rank"):
        assert np.array_equal(getattr(told, column), getattr(plan, column))
    assert projected(snapshot, told) is told


def test_nothing_to_place_is_no_problem():
    state = ClusterState(cluster())
    ready(state)
    state.replica_down(0.0, "prefill", 0)
    snapshot = state.snapshot(0.0)
    assert to_problem(snapshot, plan_by_risk(snapshot), EpochParams()) is None


def test_calls_that_no_replica_can_take_now_are_left_out():
    state = ClusterState(cluster(decode=(profile(), profile()), kv_tokens=(320, 16_000)))
    small, large = ready(state), ready(state, tokens=(1000, 50))
    state.replica_down(0.0, "decode", 1)
    snapshot = state.snapshot(0.0)
    greedy = plan_by_risk(snapshot)
    problem, index = to_problem(snapshot, greedy, EpochParams())
    assert greedy.slots[index.positions].tolist() == [small]
    plan = index.to_plan(problem, index.decision_of(problem, index.greedy), "test")
    assert plan.decode[plan.slots == large].tolist() == [-1]


# -- carry_over --------------------------------------------------------------------------------------------------------


def test_carried_calls_keep_order_and_placement_and_new_ones_go_where_the_greedy_ranks_them():
    state = busy_state(4, mixed_cluster(), num_calls=8)
    before = state.snapshot(state.clock_ms)
    n = len(before.waiting)
    rng = np.random.default_rng(0)
    earlier = plan_in_order(before, rng.permutation(n), provenance="earlier")
    adopt(state, earlier)
    gone = int(earlier.slots[(before.calls["stage"][earlier.rows] == 1)][0])
    push(state, gone, state.clock_ms, "prefill")
    added = [ready(state, state.clock_ms, tokens=(50 * i + 40, 20)) for i in range(3)]
    after = state.snapshot(state.clock_ms)
    greedy = plan_by_risk(after)
    plan = carry_over(after, greedy, earlier)
    assert plan.provenance == "earlier"
    assert sorted(plan.rank.tolist()) == list(range(len(after.waiting)))
    queue = plan.slots[np.argsort(plan.rank)].tolist()
    carried = [slot for slot in earlier.slots[np.argsort(earlier.rank)].tolist() if slot != gone]
    assert [slot for slot in queue if slot not in added] == carried
    by_slot = {slot: i for i, slot in enumerate(earlier.slots.tolist())}
    for i, slot in enumerate(plan.slots.tolist()):
        if slot in by_slot and after.calls["stage"][plan.rows[i]] != WAIT_DECODE:
            assert (plan.prefill[i], plan.decode[i]) == (earlier.prefill[by_slot[slot]], earlier.decode[by_slot[slot]])
    rank = dict(zip(greedy.slots.tolist(), greedy.rank.tolist(), strict=True))
    for slot in added:
        later = queue[queue.index(slot) + 1 :]
        earlier_ones = queue[: queue.index(slot)]
        # Right before the first carried call that the greedy ranks behind it: none before it is ranked behind it.
        assert all(rank[other] < rank[slot] for other in earlier_ones if other not in added)
        assert not later or later[0] in added or rank[later[0]] > rank[slot]


def test_a_carried_placement_on_a_replica_that_went_down_is_chosen_anew():
    state = ClusterState(cluster((profile(), profile()), (profile(), profile())))
    ready(state), ready(state)
    everywhere = np.array([1, 1])
    earlier = plan_in_order(state.snapshot(0.0), np.array([1, 0]), prefill=everywhere, decode=everywhere)
    state.replica_down(0.0, "prefill", 1)
    snapshot = state.snapshot(0.0)
    plan = carry_over(snapshot, plan_by_risk(snapshot), earlier)
    assert plan.rank.tolist() == [1, 0]
    assert plan.prefill.tolist() == [0, 0]


def test_a_plan_whose_calls_are_all_gone_is_outdated():
    state = ClusterState(cluster())
    slot = ready(state)
    earlier = plan_by_risk(state.snapshot(0.0))
    adopt(state, earlier)
    push(state, slot, 0.0, "decode")
    state.call_done(1.0, slot, 5)
    assert ready(state, 2.0) == slot  # the slot is the same, the serial is not
    snapshot = state.snapshot(2.0)
    assert carry_over(snapshot, plan_by_risk(snapshot), earlier) is None


@pytest.mark.parametrize(
    "wrong", [{"tick_ms": 0.0}, {"tick_ms": float("nan")}, {"max_calls": 0}, {"exponent": 0}, {"urgency": -1.0}]
)
def test_parameters_out_of_range_are_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        EpochParams(**wrong)
