"""Problems, objectives and decisions: what the door refuses, and arithmetic by hand."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
from epoch_problems import make_problem
from hypothesis import given
from hypothesis import strategies as st

from hexsolve_models import (
    Decision,
    Objective,
    cost,
    late_count,
    max_stretch,
    power,
    tardiness,
    total_stretch,
)


def two_calls():
    return make_problem([[1, 2], [3, 4]], [[5, 6], [7, 8]], kv=[2, 3], held=[(1, 0, 4, 2)])


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("prefill_ticks", [[1, 2, 3], [1, 2, 3]], r"prefill_ticks has shape \(2, 3\): expected \[N, P\] = \(2, 2\)"),
        ("prefill_ticks", [[1, 2], [3, 0]], r"prefill_ticks\[1, 1\] = 0: expected >= 1, or -1"),
        ("prefill_ticks", [[1, 2], [3, -2]], r"prefill_ticks\[1, 1\] = -2: expected -1\.\."),
        ("decode_ticks", [1, 2], "decode_ticks has 1 dimensions: expected 2"),
        ("decode_ticks", [[1.5, 2], [3, 4]], "decode_ticks has dtype float64: expected integers"),
        ("locked_decode", [-1, 2], r"locked_decode\[1\] = 2: expected -1\.\.1"),
        ("release_tick", [0, -1], r"release_tick\[1\] = -1: expected 0\.\."),
        ("kv_blocks", [0, 3], r"kv_blocks\[0\] = 0: expected 1\.\."),
        ("kv_capacity", [10, -1], r"kv_capacity\[1\] = -1"),
        ("workflow", [0, 2], r"workflow\[1\] = 2: expected 0\.\.1"),
        ("workflow", [0, 0], "no call belongs to workflow 1"),
        ("held_decode", [2], r"held_decode\[0\] = 2: expected 0\.\.1"),
        ("held_end", [-1], r"held_end\[0\] = -1: expected >= held_start\[0\] = 0"),
        ("transfer_base_ticks", [[0, 0]], "transfer_base_ticks has shape"),
        ("release_tick", [0, 2**31], r"release_tick\[1\] = 2147483648"),
        ("crowding_ticks", [[0, 0]], r"crowding_ticks has shape \(1, 2\): expected \[N, D\] = \(2, 2\)"),
        ("crowding_ticks", [[0, 0], [-1, 0]], r"crowding_ticks\[1, 0\] = -1: expected 0\.\."),
        ("crowding_ticks", [0, 0], "crowding_ticks has 1 dimensions: expected 2"),
        ("uncrowded_calls", [1], r"uncrowded_calls has shape \(1,\): expected \[D\] = \(2,\)"),
        ("uncrowded_calls", [1, -1], r"uncrowded_calls\[1\] = -1: expected 0\.\."),
        ("uncrowded_calls", [1.5, 1], "uncrowded_calls has dtype float64: expected integers"),
    ],
)
def test_problem_refuses(field, value, message):
    with pytest.raises(ValueError, match=message):
        replace(two_calls(), **{field: np.array(value)})


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ([(0, 2, 0)], r"edge_after\[0\] = 2: expected 0\.\.1"),
        ([(-1, 1, 0)], r"edge_before\[0\] = -1: expected 0\.\.1"),
        ([(0, 1, -1)], r"edge_lag\[0\] = -1: expected 0\.\."),
        ([(0, 0, 0)], r"edges: calls \[0\] wait for one another: expected no cycle"),
        ([(0, 1, 3), (1, 0, 3)], r"edges: calls \[0, 1\] wait for one another"),
    ],
)
def test_edges_refused(edges, message):
    with pytest.raises(ValueError, match=message):
        make_problem([[1], [1]], [[1], [1]], edges=edges)


def test_locked_calls_wait_for_no_one():
    make_problem([[-1], [1]], [[1], [1]], locked=[0, -1], edges=[(0, 1, 0)])
    with pytest.raises(ValueError, match=r"edge_after\[1\] = 0: expected a free call, this one is locked"):
        make_problem([[-1], [1]], [[1], [1]], locked=[0, -1], edges=[(0, 1, 0), (1, 0, 0)])


def test_edge_fields_have_one_length():
    with pytest.raises(ValueError, match=r"edge_after has shape \(2,\): expected \[E\] = \(1,\)"):
        replace(two_calls(), edge_before=np.array([0]), edge_after=np.array([1, 1]), edge_lag=np.array([0]))


def test_caps_must_be_of_the_same_calls_and_workflows():
    problem, nothing = two_calls(), np.zeros((2, 1), dtype=int)
    with pytest.raises(ValueError, match=r"caps objective.tail_ticks has 1 entries: expected 2, one per call"):
        replace(problem, caps=((Objective(nothing, nothing, [0], [0]), 3),))
    with pytest.raises(ValueError, match="caps objective has 1 workflows: expected 2"):
        replace(problem, caps=((Objective(nothing[:1], nothing[:1], [0, 0], [0, 0]), 3),))


def test_crowding_by_hand():
    # Three on D0, one more than the two at full speed: each takes 1 x its own ticks longer. One on D1: at full speed.
    problem = make_problem([[1]] * 4, [[5, 5]] * 4, crowding=[[1, 9], [2, 9], [3, 9], [4, 9]], uncrowded=[2, 1])
    assert problem.crowding(np.array([0, 0, 0, 1])).tolist() == [1, 2, 3, 0]
    assert problem.crowding(np.array([0, 1, 0, 1])).tolist() == [0, 9, 0, 9]
    assert problem.is_crowdable
    assert not replace(problem, uncrowded_calls=np.array([4, 4])).is_crowdable
    assert not make_problem([[1]], [[5]]).is_crowdable


def test_topological_order_puts_parents_first_and_low_indices_next():
    problem = make_problem([[1]] * 5, [[1]] * 5, edges=[(4, 0, 0), (0, 2, 0), (3, 2, 0)])
    assert problem.topological.tolist() == [1, 3, 4, 0, 2]
    assert make_problem([[1]] * 3, [[1]] * 3).topological.tolist() == [0, 1, 2]


def test_only_fields_travel_and_they_arrive():
    problem = make_problem([[1]] * 2, [[5]] * 2, crowding=[[2]] * 2, edges=[(0, 1, 3)])
    assert problem.flat.wait_lag.tolist() == [3]
    fresh = pickle.loads(pickle.dumps(problem))
    assert "flat" not in vars(fresh)
    assert fresh.edge_lag.tolist() == [3]
    assert fresh.flat.crowding.tolist() == [[2], [2]]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("due_tick", [0], "objective.due_tick has 1 entries: expected 2"),
        ("late_weight", [[1, 1]], "objective.late_weight has 2 dimensions: expected 1"),
        ("late_weight", [1, -1], r"objective.late_weight\[1\] = -1: expected 0\.\."),
        ("late_weight", [1, 2**51], r"objective.late_weight\[1\] = "),
        ("due_tick", [-(2**51), 0], r"objective.due_tick\[0\] = "),
        ("slope", [[-1], [1]], r"objective.slope\[0, 0\] = -1: expected 0\.\."),
        ("slope", [[2**51], [1]], r"objective.slope\[0, 0\]"),
        ("intercept", [[0, 0], [0, 0]], "objective.intercept has shape"),
        ("tail_ticks", [0, -1], r"objective.tail_ticks\[1\] = -1"),
        ("call_weight", [0], "objective.call_weight has 1 entries: expected 2"),
        ("aggregate", "mean", "objective.aggregate = 'mean': expected 'sum' or 'max'"),
    ],
)
def test_objective_refuses(field, value, message):
    with pytest.raises(ValueError, match=message):
        replace(two_calls().objective, **{field: value})


def test_arrays_are_copies_and_frozen():
    source = np.array([0, 0])
    problem = replace(two_calls(), release_tick=source)
    source[0] = 9
    assert problem.release_tick.tolist() == [0, 0]
    with pytest.raises(ValueError, match="read-only"):
        problem.release_tick[0] = 1


def test_transfer_is_base_plus_rate_rounded_up():
    problem = make_problem([[1]], [[1]], transfer=[[5]], rate=[[3]], moved=[1025])
    assert problem.transfer(0).tolist() == [[5 + 4]]  # 3 * 1025 / 1024 = 3.003


def test_blocked_calls_are_named():
    # Call 1 has no prefill replica, call 2 is larger than every replica, call 3 is locked where it does not fit.
    problem = make_problem(
        [[1], [-1], [1], [-1]], [[1, 1]] * 4, kv=[1, 1, 9, 5], capacity=[8, 4], locked=[-1, -1, -1, 1]
    )
    assert problem.blocked_calls() == (1, 2, 3)


def test_decision_times_by_hand():
    # Free call: prefill [4, 7), transfer 2, decode from 11 for 5. Locked call: KV there at 6, decode [6, 13).
    problem = make_problem([[3], [-1]], [[5], [7]], transfer=[[2]], release=[0, 6], locked=[-1, 0])
    decision = Decision(np.array([0, -1]), np.array([0, 0]), np.array([4, -1]), np.array([11, 6]))
    assert decision.arrival(problem).tolist() == [9, 6]
    assert decision.decode_finish(problem).tolist() == [16, 13]
    assert decision.priority_order(problem).tolist() == [0, 1]


def test_power_is_below_the_curve_and_close():
    # R = (elapsed + F) / 1000 against reference 2; 24 tangents from x = 0.25 on: neighbours at ratio 16^(1/23) = 1.128.
    objective = power([500], [1000], [0], k=8, reference=2.0, scale=10**6)
    for finish in range(0, 7500, 50):
        exact = 10**6 * ((500 + finish) / 2000) ** 8
        value = objective.workflow_cost(0, finish)
        assert 0 <= value <= exact
        assert value >= 0.89 * exact - 100
    assert objective.workflow_cost(0, 1500) == pytest.approx(10**6, rel=0.1)


def test_power_stays_straight_beyond_its_range():
    objective = power([0], [1000], [0], k=8, reference=1.0, high=4.0)
    slope = int(objective.slope.max())
    assert objective.workflow_cost(0, 9001) - objective.workflow_cost(0, 9000) == slope
    assert slope == pytest.approx(8 * 4**7 * 10**6 / 1000, rel=1e-3)


def test_power_counts_workflows_by_their_own_scale_and_is_one_line_for_k_1():
    ages = [500, 0], [1000, 4000], [0, 0]
    for k in (1, 3):
        both = power(*ages, k=k, reference=2.0, scale=[10**6, 10**4])
        for w, scale in enumerate((10**6, 10**4)):
            alone = power([ages[0][w]], [ages[1][w]], [0], k=k, reference=2.0, scale=scale)
            assert [both.workflow_cost(w, tick) for tick in (0, 900, 9000)] == [
                alone.workflow_cost(0, tick) for tick in (0, 900, 9000)
            ]
    line = power(*ages, k=1, reference=2.0, scale=10**6)
    assert line.slope.tolist() == [[0, 500], [0, 125]]
    assert [line.workflow_cost(0, tick) for tick in (0, 1500, 9500)] == [250_000, 10**6, 5 * 10**6]


def test_late_count_by_hand():
    # Due when elapsed + F > 2 * horizon: after 1500 and after 8000.
    objective = late_count([500, 0], [1000, 4000], [0, 0], alpha=2.0, weight=[1, 7])
    assert objective.due_tick.tolist() == [1500, 8000]
    assert [objective.workflow_cost(0, tick) for tick in (0, 1500, 1501)] == [0, 0, 1]
    assert [objective.workflow_cost(1, tick) for tick in (8000, 8001)] == [0, 7]
    assert late_count([500, 0], [1000, 4000], [0, 0], alpha=2.0).late_weight.tolist() == [1, 1]
    assert objective.latest_finish(0, 0) == 1500
    assert objective.latest_finish(0, 1) is None
    assert objective.latest_finish(1, 6) == 8000


def test_a_step_comes_on_top_of_the_pieces():
    # max(F, 2 F - 10) and 5 more after 8: 8 at 8, 14 at 9, 15 at 10, 17 at 11.
    nothing = np.zeros(1, dtype=int)
    objective = Objective([[1, 2]], [[0, -10]], nothing, nothing, due_tick=[8], late_weight=[5])
    assert [objective.workflow_cost(0, tick) for tick in (8, 9, 10, 11)] == [8, 14, 15, 17]
    assert [objective.latest_finish(0, limit) for limit in (7, 8, 13, 14, 16, 17)] == [7, 8, 8, 9, 10, 11]


def test_stretch_objectives_by_hand():
    # Slopes 10^9 / 1000 = 10^6 and 10^9 / 4000 = 250,000.
    ages = [500, 0], [1000, 4000], [0, 0]
    assert total_stretch(*ages).workflow_cost(0, 1500) == 2 * 10**9
    assert total_stretch(*ages).workflow_cost(1, 8000) == 2 * 10**9
    assert max_stretch(*ages).aggregate == "max"
    late = tardiness(*ages, alpha=2.0)
    assert [late.workflow_cost(0, tick) for tick in (0, 1500, 1600)] == [0, 0, 10**8]


@pytest.mark.parametrize(
    "call",
    [
        lambda: power([0], [0], [0]),
        lambda: power([-1], [5], [0]),
        lambda: power([0, 0], [5], [0]),
        lambda: power([0], [5], [0], k=0.5),
        lambda: power([0], [5], [0], scale=0),
        lambda: power([0, 0], [5, 5], [0, 0], scale=[1, 0]),
        lambda: tardiness([0], [5], [0], alpha=0),
        lambda: late_count([0], [5], [0], alpha=0),
        lambda: late_count([0], [5], [0], alpha=1, weight=-1),
        lambda: total_stretch([0], [5], [0], scale=0),
    ],
)
def test_constructors_refuse(call):
    with pytest.raises(ValueError, match="expected"):
        call()


@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(-40, 10)), min_size=1, max_size=6),
    st.integers(0, 20),
    st.integers(0, 20),
    st.integers(-30, 90),
    st.integers(-5, 30),
    st.integers(0, 20),
)
def test_live_pieces_and_latest_finish(pieces, low, width, limit, due, weight):
    slope, intercept = np.array(pieces).T[:, None, :]
    nothing = np.zeros(1, dtype=int)
    convex = Objective(slope, intercept, nothing, nothing)
    objective = replace(convex, due_tick=[due], late_weight=[weight])
    live = objective.live_pieces(0, low, low + width)
    costs = [convex.workflow_cost(0, tick) for tick in range(low, low + width + 1)]
    assert [max(a * tick + b for a, b in live) for tick in range(low, low + width + 1)] == costs
    late = [objective.workflow_cost(0, tick) - cost for tick, cost in enumerate(costs, low)]
    assert late == [weight * (tick > due) for tick in range(low, low + width + 1)]
    # Each live piece is needed somewhere.
    assert all(any(a * t + b == f for t, f in zip(range(low, low + width + 1), costs, strict=True)) for a, b in live)
    latest = objective.latest_finish(0, limit)
    assert latest is None or objective.workflow_cost(0, latest + 1) > limit
    if latest is None:
        assert slope.max() == 0
    elif objective.workflow_cost(0, -(10**6)) <= limit:
        assert objective.workflow_cost(0, latest) <= limit


def test_cost_counts_every_part():
    # Workflow 0: max(7 + 1, 9 + 2) = 11, cost max(2 * 11, 3 * 11 - 5) = 28. Workflow 1: 4, cost max(4, 0) = 4.
    # Own: 1 * 7 + 0 * 9 + 10 * 4 = 47.
    problem = make_problem(
        [[1], [1], [1]],
        [[5], [5], [2]],
        workflow=[0, 0, 1],
        slope=[[2, 3], [1, 0]],
        intercept=[[0, -5], [0, 0]],
        tail=[1, 2, 0],
        weight=[1, 0, 10],
    )
    decision = Decision(np.zeros(3, int), np.zeros(3, int), np.array([0, 1, 2]), np.array([2, 4, 2]))
    assert cost(problem, decision) == 28 + 4 + 47
    largest = replace(problem, objective=replace(problem.objective, aggregate="max"))
    assert cost(largest, decision) == 28 + 47
    # Late after 10 and after 4: workflow 0 pays 100 more, workflow 1 is just on time.
    late = replace(problem, objective=replace(problem.objective, due_tick=[10, 4], late_weight=[100, 100]))
    assert cost(late, decision) == 28 + 100 + 4 + 47
    assert cost(problem, decision, late.objective) == 28 + 100 + 4 + 47
    # Three on the replica, 2 ticks more each: 9, 11, 6 and F = 13, 6: max(26, 34) + 6 + 9 + 60.
    crowded = replace(problem, crowding_ticks=np.ones((3, 1), dtype=int), uncrowded_calls=np.array([1]))
    assert cost(crowded, decision) == 34 + 6 + 9 + 60
