"""Which components run when, and orders worth a list schedule."""

import numpy as np
from epoch_problems import make_problem, random_problem

from hexsolve.portfolio import PORTFOLIO, Step, steps_for
from hexsolve.solve import solve
from hexsolve_models import cost, earliest_finish
from hexsolve_models.orders import static_orders


def names(steps):
    return [step.component for step in steps]


def test_steps_by_size_and_budget():
    assert names(steps_for(8, 50.0)) == ["local_search", "relaxation", "cpsat_full"]
    assert names(steps_for(8, 5.0)) == ["local_search"]
    assert names(steps_for(500, 50.0)) == ["list_orders", "local_search"]
    for row in PORTFOLIO:
        assert steps_for(row.max_calls, row.min_budget_ms)


def test_a_call_that_waits_for_kv_is_noticed():
    # Both decode on the one replica. With room for two nobody waits: the second finishes at 2 + 9; else at 1 + 9 + 9.
    def asked(capacity):
        problem = make_problem([[1], [1]], [[9], [9]], kv=[2, 2], capacity=[capacity], slope=[[1], [2]])
        hint = earliest_finish(problem, [0, 1])
        result = solve(problem, deterministic=0.05, hint=hint)
        assert result.bound == result.objective == {4: 2 * 10 + 11, 3: 2 * 10 + 19}[capacity]
        return [name for name, _, _ in result.work]

    assert "cpsat_full" not in asked(4)
    assert "relaxation" not in asked(3)


def test_beside_is_only_for_workers():
    problem = random_problem(5, 6, features=("crowding",))
    result = solve(problem, deterministic=0.01, steps=[Step("relaxation", beside=True), Step("local_search")])
    assert [name for name, _, _ in result.work] in (["local_search"], [])


def test_static_orders_by_hand():
    # Costs per tick 1, 1, 5 over prefills 4, 2, 6: Smith's ratios 1/4, 1/2, 5/6, the largest first.
    problem = make_problem([[4], [2], [6]], [[1]] * 3, slope=[[1], [1], [5]])
    by_ratio, _, shortest = static_orders(problem)
    assert (by_ratio.tolist(), shortest.tolist()) == ([2, 1, 0], [1, 0, 2])
    assert cost(problem, earliest_finish(problem, by_ratio)) == 57
    # The one due first is the most urgent where only lateness costs.
    late = make_problem([[4]] * 3, [[1]] * 3, slope=[[0]] * 3, due=[20, 9, 14], late=[1] * 3)
    assert static_orders(late)[1].tolist() == [1, 2, 0]
    assert all(np.array_equal(np.sort(order), [0, 1, 2]) for order in static_orders(late))
