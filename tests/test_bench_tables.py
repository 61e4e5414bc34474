"""Figures of the anytime benchmark, each worked out by hand, and the table that the calibration derives from them."""

from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import pytest

from benchmarks import anytime_tables as tables
from benchmarks.anytime import Plan, Row, measure, read_rows
from benchmarks.epochs import committed
from benchmarks.methods import GREEDY, PLAIN, PORTFOLIO
from benchmarks.portfolio_calibration import findings, settled_ms


def row(**given: Any) -> Row:
    """100 ms for an epoch of 8 calls whose greedy decision costs 200."""
    usual = {
        "epoch": "e", "source": "s", "replicas": 8, "seed": 0, "waiting": 8, "moment": 0, "calls": 8, "workflows": 8,
        "held": 0, "budget_ms": 100.0, "method": PORTFOLIO, "cost": 100.0, "bound": 50.0, "status": "FEASIBLE",
        "wall_ms": 90.0, "build_ms": 10.0, "winner": "local_search", "trace": (), "work": 1.0, "greedy": 200.0,
        "decision_ms": (95.0,), "outcome": "better",
    }  # fmt: skip
    return Row(**(usual | given))


def test_primal_integral() -> None:
    # Best 100. 0-20 ms greedy's 200: gap 1/2; 20-60 ms 125: gap 1/5; then 100: gap 0. (20/2 + 40/5 + 0) / 100 = 0.18.
    traced = row(trace=((20.0, "a", 125.0, 0.0), (60.0, "b", 100.0, 0.0)))
    assert tables.primal_integral(traced, 100.0) == pytest.approx(0.18)


def test_primal_integral_does_not_count_what_comes_after_the_budget() -> None:
    assert tables.primal_integral(row(trace=((150.0, "late", 100.0, 0.0),)), 100.0) == pytest.approx(0.5)


def test_primal_integral_of_a_start_worse_than_greedy_is_greedys() -> None:
    assert tables.primal_integral(row(trace=((0.0, "list", 400.0, 0.0),)), 100.0) == pytest.approx(0.5)


def test_best_known_is_over_methods_and_budgets_and_never_dearer_than_greedy() -> None:
    rows = [row(cost=150.0), row(cost=120.0, method="x", budget_ms=5.0), row(epoch="f", cost=inf, method="x")]
    assert tables.best_known(rows) == {"e": 120.0, "f": 200.0}


@pytest.mark.parametrize(("budget_ms", "limit_ms"), [(5.0, 6.0), (50.0, 51.0), (200.0, 221.0), (1000.0, 1101.0)])
def test_limit(budget_ms: float, limit_ms: float) -> None:
    assert tables.limit_ms(budget_ms) == pytest.approx(limit_ms)


def test_portfolio_table() -> None:
    # Two epochs: 100 and 200 of greedy's 200 -> geometric mean sqrt(1/2); best known 100 and 200; gaps 1/2 and 3/4.
    rows = [row(), row(epoch="f", cost=200.0, decision_ms=(300.0,), outcome="greedy_kept", status="OPTIMAL")]
    (found,) = tables.portfolio(rows)
    assert found["cost/greedy"] == pytest.approx(0.5**0.5)
    assert found["cost/best"] == pytest.approx(1.0)
    assert found["gap p50"] == pytest.approx(0.625)
    assert (found["better"], found["optimal"], found["late"], found["adopted"]) == ("50%", "50%", "50%", "50%")
    assert found["build p50"] == "10%"


def test_sizes_put_clusters_together() -> None:
    rows = [row(replicas=4), row(epoch="f", replicas=8, cost=200.0), row(epoch="g", waiting=16)]
    small, large = tables.sizes(rows)
    assert (small["waiting"], small["epochs"], large["waiting"], large["epochs"]) == (8, 2, 16, 1)
    assert small["cost/greedy"] == pytest.approx(0.5**0.5)


def test_against_components_pairs_with_the_best_one() -> None:
    rows = [row(cost=110.0), row(method="a", cost=100.0), row(method="b", cost=150.0), row(method=PLAIN, cost=1.0)]
    (found,) = tables.against_components(rows)
    assert found["best component"] == "a"
    assert found["portfolio / it"] == pytest.approx(1.1)


def test_against_plain() -> None:
    rows = [row(cost=100.0), row(method=PLAIN, cost=125.0), row(epoch="f"), row(epoch="f", method=PLAIN, cost=inf)]
    (found,) = tables.against_plain(rows)
    assert found["portfolio / plain p50"] == pytest.approx((0.8 + 0.0) / 2)
    assert found["plain without a decision"] == "50%"


def test_targets_say_which_are_missed() -> None:
    rows = [
        row(waiting=64, budget_ms=20.0, cost=100.0, decision_ms=(20.5,)),
        row(waiting=64, method=PLAIN, budget_ms=2000.0, cost=90.0),
        row(epoch="f", budget_ms=50.0, status="OPTIMAL", decision_ms=(52.0,)),
    ]
    met = {str(found["target"]): found["met"] for found in tables.targets(rows)}
    assert met["20 ms, 64 on 8x8: portfolio / plain CP-SAT p50 <= 1"] == "NO"
    assert met["50 ms, <= 8 waiting: optimal >= 80 %"] == "yes"
    assert met["decision p99 / limit, worst set"] == "NO"  # 52 of 51 ms


def test_no_rows_no_targets() -> None:
    assert tables.targets([]) == []


def test_settled() -> None:
    trace = ((1.0, "a", 180.0, 0.0), (7.0, "a", 100.4, 0.0), (90.0, "a", 100.0, 0.0))
    assert settled_ms(row(trace=trace)) == 7.0  # 100.4 is within 0.5 % of 100


def test_calibration_lets_a_component_follow_that_proves_more_or_is_cheaper() -> None:
    search = {"method": "local_search", "trace": ((20.0, "local_search", 100.0, 0.0),)}
    rows = [
        row(**search, epoch=name, waiting=waiting, budget_ms=budget_ms)
        for name in "ef"
        for waiting in (8, 16)
        for budget_ms in (50.0, 200.0)
    ]
    exact = [replace(r, method="cpsat_full", cost=101.0, trace=()) for r in rows]
    # 8 calls: a proof from 200 ms on; 16 calls: neither a proof nor 0.5 % cheaper.
    proves = [
        replace(r, status="OPTIMAL") if (r.waiting, r.budget_ms, r.epoch) == (8, 200.0, "e") else r for r in exact
    ]
    found = findings(rows + proves)
    assert [(f.waiting, f.budget_ms, f.follower) for f in found] == [
        (8, 50.0, ""),
        (8, 200.0, "cpsat_full"),
        (16, 50.0, ""),
        (16, 200.0, ""),
    ]


def test_a_run_measures_every_method_and_can_be_read_again(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    rows = measure(Plan(budgets_ms=(5.0,), only=(PORTFOLIO, "local_search")), file, epochs=committed()[:1])
    assert read_rows(file) == rows
    assert {row.method for row in rows} == {GREEDY, PORTFOLIO, "local_search"}
    (greedy,) = (row for row in rows if row.method == GREEDY)
    assert all(row.cost <= greedy.cost and row.bound <= row.cost for row in rows)
    assert all(row.calls == row.waiting == 8 for row in rows)
