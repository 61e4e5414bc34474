"""Every outcome, every reason to stop, and that nothing unchecked is returned whatever components and workers do."""

import subprocess
import sys
from dataclasses import replace
from math import inf, nan

import numpy as np
import pytest
from epoch_problems import FEATURES, brute_force, hint_within_caps, make_problem, random_decision, random_problem
from hypothesis import given, settings
from hypothesis import strategies as st

from hexsolve import components
from hexsolve.backends import ModelError
from hexsolve.errors import InputError
from hexsolve.portfolio import Step
from hexsolve.proposal import Proposal
from hexsolve.solve import NATIVE_STATUS, Status, StopKind, solve, warm_up
from hexsolve.workers import NoWorker, WorkerDied, WorkerError, WorkerPool
from hexsolve_models import Decision, cost, earliest_finish, violations

SEEDS = st.integers(0, 10**6)
STEPS = ("cpsat_full",)  # proves small problems; the local search would use all its time
SOME_FEATURES = st.sets(st.sampled_from(FEATURES))


@pytest.fixture(scope="module", autouse=True)
def _warm():
    warm_up()


def contested(num_calls=6):
    """Too tight for the bound to meet the optimum, and a hint that can be improved."""
    rng = np.random.default_rng(1)
    prefill, decode = rng.integers(2, 9, (num_calls, 2)), rng.integers(5, 20, (num_calls, 2))
    problem = make_problem(prefill, decode, kv=rng.integers(3, 8, num_calls), capacity=[10, 10])
    return problem, earliest_finish(problem, np.argsort(-prefill.sum(axis=1)))


# -- outcomes ----------------------------------------------------------------------------------------------------------


def test_optimal():
    problem, hint = contested()
    result = solve(problem, deterministic=10.0, hint=hint, steps=STEPS)
    assert (result.status, result.stop_reason.kind) == (Status.OPTIMAL, StopKind.PROVED)
    assert result.objective == result.bound == cost(problem, result.decision) < cost(problem, hint)
    assert result.wall_ms > result.build_ms > 0
    assert [name for name, _, _ in result.work] == ["cpsat_full"]
    assert all(work > 0 for _, work, _ in result.work)
    assert result.winner == "cpsat_full"


def test_optimal_without_a_component_when_the_hint_meets_the_bound(monkeypatch):
    monkeypatch.setattr(components, "run", None)
    problem = make_problem([[3]], [[5]])
    result = solve(problem, hint=earliest_finish(problem, [0]))
    assert (result.status, result.stop_reason.kind) == (Status.OPTIMAL, StopKind.CERTIFIED)
    assert result.objective == result.bound == 8
    assert result.winner == "hint"


def test_feasible_at_a_limit():
    problem, hint = contested(14)
    result = solve(problem, deterministic=1e-4, hint=hint, steps=["local_search"])
    assert (result.status, result.stop_reason.kind) == (Status.FEASIBLE, StopKind.LIMIT)
    assert result.bound < result.objective <= cost(problem, hint)


@pytest.mark.parametrize("budget_ms", [0, 1e-9, 0.2])
def test_a_tiny_budget_is_not_called_and_keeps_the_hint(budget_ms, monkeypatch):
    monkeypatch.setattr(components, "run", None)
    problem, hint = contested()
    result = solve(problem, budget_ms=budget_ms, hint=hint)
    assert (result.status, result.stop_reason.kind) == (Status.FEASIBLE, StopKind.NOT_CALLED)
    assert (result.decision, result.winner) == (hint, "hint")
    assert -inf < result.bound < result.objective


def test_a_list_schedule_without_a_hint():
    problem, _ = contested()
    result = solve(problem, budget_ms=0)
    assert (result.status, result.winner) == (Status.FEASIBLE, "list")
    assert violations(problem, result.decision) == []


def test_infeasible_names_the_calls():
    problem = make_problem([[1], [1]], [[1], [1]], kv=[1, 9], capacity=[8])
    result = solve(problem)
    assert (result.status, result.bound, result.has_decision) == (Status.INFEASIBLE, inf, False)
    assert result.stop_reason.kind is StopKind.BLOCKED
    assert "[1]" in str(result.stop_reason)
    with pytest.raises(LookupError, match="no decision: infeasible"):
        result.decision  # noqa: B018


def test_no_solution_without_one_within_the_caps(monkeypatch):
    # Whoever sets caps brings a decision that meets them; without one there may be none.
    monkeypatch.setattr(components, "run", lambda *_: Proposal())
    problem, _ = contested()
    late = make_problem(np.ones((6, 1), int), np.ones((6, 1), int), slope=[[1]] * 6).objective
    result = solve(replace(problem, caps=((late, 1),)))
    assert (result.status, result.objective, result.has_decision) == (Status.NO_SOLUTION, inf, False)


@pytest.mark.parametrize("options", [{}, {"budget_ms": 0}, {"deterministic": 0.1}, {"budget_ms": 5.0}])
def test_empty_problem(options):
    problem = make_problem(np.zeros((0, 2), int), np.zeros((0, 3), int), slope=np.zeros((0, 1), int))
    result = solve(problem, **options)
    assert (result.status, result.objective, result.decision.prefill.size) == (Status.OPTIMAL, 0, 0)


def test_status_table_is_total():
    from ortools.sat.python import cp_model

    names = {status.name for status in cp_model.CpSolverStatus.__members__.values()}
    assert set(NATIVE_STATUS) == names | {""}


# -- against enumeration and the referee -------------------------------------------------------------------------------


@given(SEEDS, st.integers(1, 3), st.booleans(), SOME_FEATURES)
@settings(max_examples=40, deadline=None)
def test_result_is_the_enumerated_optimum(seed, num_calls, hinted, features):
    problem = random_problem(seed, num_calls, features=features)
    hints = [hint_within_caps(problem)] if hinted or problem.caps else []
    result = solve(problem, hint=hints, seed=seed, deterministic=10.0, steps=["cpsat_full"])
    assert (result.status, result.objective, result.bound) == (Status.OPTIMAL, *[brute_force(problem)[0]] * 2)


@given(SEEDS, st.integers(1, 7), st.sampled_from([0.0, 1e-5, 1e-3]), SOME_FEATURES)
@settings(max_examples=40, deadline=None)
def test_never_dearer_than_any_hint_and_no_decision_below_the_bound(seed, num_calls, deterministic, features):
    problem = random_problem(seed, num_calls, 3, 3, features)
    hints = [hint for i in range(4) if not violations(problem, hint := random_decision(problem, i))]
    result = solve(problem, deterministic=deterministic, hint=hints, seed=seed)
    costs = [cost(problem, hint) for hint in hints]
    assert violations(problem, result.decision) == []
    assert result.bound <= result.objective == cost(problem, result.decision) <= min(costs)


@given(SEEDS, st.integers(1, 7), SOME_FEATURES)
@settings(max_examples=25, deadline=None)
def test_the_trace_only_improves_and_ends_at_the_result(seed, num_calls, features):
    problem = random_problem(seed, num_calls, 3, 3, features)
    result = solve(problem, deterministic=1e-3, hint=hint_within_caps(problem), seed=seed)
    costs, bounds, moments = zip(*((t.cost, t.bound, t.elapsed_ms) for t in result.trace), strict=True)
    assert list(costs) == sorted(costs, reverse=True)
    assert list(bounds) == sorted(bounds)
    assert list(moments) == sorted(moments)
    assert (costs[-1], bounds[-1]) == (result.objective, result.bound)


def test_hints_that_break_rules_are_dropped():
    problem, hint = contested()
    too_early = replace(hint, decode_start=np.zeros(problem.num_calls, dtype=np.int64))
    assert violations(problem, too_early)
    assert solve(problem, hint=too_early, budget_ms=0).winner == "list"
    other = earliest_finish(problem, np.arange(6))
    best = min(hint, other, key=lambda decision: cost(problem, decision))
    assert solve(problem, hint=[too_early, hint, other], budget_ms=0).decision == best


@pytest.mark.parametrize("workers", [1, 2])
def test_same_seed_same_result(workers):
    problem, hint = contested(12)
    results = [solve(problem, deterministic=0.01, seed=3, workers=workers, hint=hint) for _ in range(3)]
    assert len({str([getattr(r.decision, name) for name in ("prefill", "decode_start")]) for r in results}) == 1
    assert len({(r.objective, r.bound, r.winner, r.work) for r in results}) == 1


# -- parameters --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{"budget_ms": -1}, {"deterministic": -0.1}, {"budget_ms": nan}, {"seed": -1}, {"workers": 0}]
)
def test_bad_limits_are_refused(options):
    with pytest.raises(InputError, match="expected"):
        solve(make_problem([[1]], [[1]]), **options)


@pytest.mark.parametrize("steps", [["local_search", "nope"], [Step("nope")]])
def test_unknown_components_are_refused_with_the_names_there_are(steps):
    with pytest.raises(InputError, match=r"component = 'nope': expected one of .*local_search"):
        solve(make_problem([[1]], [[1]]), steps=steps)


def test_steps_run_in_order_and_share_the_time(monkeypatch):
    asked = []
    monkeypatch.setattr(
        components, "run", lambda name, problem, hint, limits: asked.append((name, limits)) or Proposal()
    )
    problem, hint = contested()
    solve(problem, budget_ms=1000.0, hint=hint, steps=["cpsat_full", "local_search", "cpsat_full"])
    assert [name for name, _ in asked] == ["cpsat_full", "local_search", "cpsat_full"]
    # A third, half and all of what is left; what is left is all but a bit, since nothing took time.
    shares = [limits.wall_ms / 1000.0 for _, limits in asked]
    assert shares == pytest.approx([1 / 3, 1 / 2, 1], abs=0.25)
    assert shares == sorted(shares)
    asked.clear()
    solve(problem, deterministic=0.5, seed=4, workers=2, hint=hint, steps=[Step("cpsat_full", 0.1)])
    ((_, limits),) = asked
    assert (limits.wall_ms, limits.deterministic, limits.seed, limits.workers) == (None, 0.5, 4, 2)


def test_each_component_starts_from_the_best_so_far(monkeypatch):
    problem, hint = contested()
    best = solve(problem, deterministic=10.0, hint=hint, steps=STEPS).decision
    seen = []

    def run(name, problem, hint, limits):
        seen.append(hint)
        return Proposal(best if len(seen) == 1 else None)

    monkeypatch.setattr(components, "run", run)
    result = solve(problem, hint=hint, steps=["local_search", "cpsat_full"])
    assert seen == [hint, best]
    assert (result.winner, result.decision) == ("local_search", best)


# -- components that lie -----------------------------------------------------------------------------------------------


def changed(hint, **changes):
    return replace(hint, **changes)


LIES = {
    "garbage": (lambda h, price: Proposal(changed(h, decode_start=h.decode_start * 0)), "violations"),
    "too short": (lambda h, price: Proposal(Decision([0], [0], [0], [0])), "violations"),
    "unknown replica": (lambda h, price: Proposal(changed(h, decode=h.decode + 9)), "violations"),
    "cheaper than it is": (lambda h, price: Proposal(h, claimed=price - 1), "the referee finds"),
    "an optimum with slack": (lambda h, price: Proposal(h, claimed=price + 1, status="OPTIMAL"), "the referee finds"),
    "bound above a decision": (lambda h, price: Proposal(bound=price + 1.0), "a decision costs"),
    "infeasible": (lambda h, price: Proposal(status="INFEASIBLE", bound=inf), "infeasible"),
}


@pytest.mark.parametrize("lie", LIES)
def test_what_cannot_be_true_is_rejected_and_named(monkeypatch, lie):
    answer, why = LIES[lie]
    problem, hint = contested()
    optimum = solve(problem, deterministic=10.0, hint=hint, steps=STEPS).objective
    monkeypatch.setattr(components, "run", lambda name, problem, hint, limits: answer(hint, cost(problem, hint)))
    result = solve(problem, hint=hint, steps=["cpsat_full"])
    assert result.stop_reason.kind is StopKind.REJECTED
    assert why in result.stop_reason.detail
    assert result.stop_reason.detail.startswith("cpsat_full ")
    assert (result.status, result.decision, result.winner) == (Status.FEASIBLE, hint, "hint")
    assert result.bound <= optimum


def test_a_liar_does_not_stop_the_others(monkeypatch):
    problem, hint = contested()
    honest = components.run

    def run(name, *arguments):
        return Proposal(bound=1e9) if name == "local_search" else honest(name, *arguments)

    monkeypatch.setattr(components, "run", run)
    result = solve(problem, hint=hint, deterministic=10.0, steps=["local_search", "cpsat_full"])
    assert (result.status, result.winner) == (Status.OPTIMAL, "cpsat_full")


def test_the_dearer_answer_never_replaces_the_hint(monkeypatch):
    problem, hint = contested()
    worse = replace(hint, decode_start=hint.decode_start + 50)
    monkeypatch.setattr(components, "run", lambda *_: Proposal(worse))
    result = solve(problem, hint=hint, steps=["local_search"])
    assert (result.decision, result.stop_reason.kind) == (hint, StopKind.LIMIT)


def test_an_invalid_model_raises(monkeypatch):
    from hexsolve.backends import cpsat

    problem, hint = contested()
    native = cpsat.run

    def corrupt(model, *arguments, **options):
        model.proto.variables[0].domain.extend([7, 5])
        return native(model, *arguments, **options)

    monkeypatch.setattr(cpsat, "run", corrupt)
    with pytest.raises(ModelError, match="domain"):
        solve(problem, hint=hint, steps=["cpsat_full"])


def test_costs_too_large_for_the_solver_keep_the_hint():
    problem = make_problem([[2**20], [2**20]], [[2**20], [2**19]], slope=[[2**40, 2**41]] * 2, intercept=[[0, -1]] * 2)
    hint = earliest_finish(problem, [0, 1])
    result = solve(problem, hint=hint, steps=["cpsat_full"], deterministic=1.0)
    assert result.objective <= cost(problem, hint)
    assert [(name, "lower the objective's scale" in detail) for name, _, detail in result.work] == [
        ("cpsat_full", True)
    ]


# -- workers that fail -------------------------------------------------------------------------------------------------


class StubPool:
    """Gives out one job that answers, or fails, as told."""

    def __init__(self, answer, polls=True):
        self.answer, self.polls, self.abandoned = answer, polls, []

    def submit(self, function, *arguments):
        assert function == "hexsolve.components:run"
        if isinstance(self.answer, NoWorker):
            raise self.answer
        self.arguments = arguments
        return self

    def poll(self, timeout_s=0.0):
        return self.polls

    def result(self):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def abandon(self, patience_s=0.0):
        self.abandoned.append(patience_s)


FAILURES = {
    "no worker": (StubPool(NoWorker("0 of 1 workers idle")), "0 of 1 workers idle"),
    "late": (StubPool(None, polls=False), "late"),
    "died": (StubPool(WorkerDied("worker 7 ended")), "worker 7 ended"),
    "raised": (StubPool(WorkerError("ValueError: no licence")), "ValueError: no licence"),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failing_worker_costs_nothing_and_is_told(failure):
    pool, why = FAILURES[failure]
    problem, hint = contested()
    result = solve(problem, budget_ms=500.0, hint=hint, steps=["cpsat_full"], pool=pool)
    assert result.objective <= cost(problem, hint)
    assert violations(problem, result.decision) == []
    assert ("cpsat_full", 0.0, why) in result.work
    assert result.stop_reason.kind in (StopKind.LIMIT, StopKind.PROVED)
    assert len(pool.abandoned) == (failure != "no worker")
    if failure != "no worker":  # the local search used the time beside it
        assert result.work[0][0] == "local_search"


def test_an_invalid_model_in_a_worker_raises_and_the_job_is_given_back():
    problem, hint = contested()
    pool = StubPool(WorkerError("ModelError: variable 0 has no domain"))
    with pytest.raises(ModelError, match="variable 0"):
        solve(problem, budget_ms=500.0, hint=hint, steps=["cpsat_full"], pool=pool)
    assert len(pool.abandoned) == 1


def test_a_lying_worker_is_rejected():
    problem, hint = contested()
    pool = StubPool(Proposal(replace(hint, decode_start=hint.decode_start * 0)))
    result = solve(problem, budget_ms=500.0, hint=hint, steps=["cpsat_full"], pool=pool)
    assert result.stop_reason.kind is StopKind.REJECTED
    assert result.objective <= cost(problem, hint)


def test_workers_are_for_native_components_with_a_wall_limit():
    problem, hint = contested()
    unused = StubPool(AssertionError("not to be used"))
    unused.submit = None
    assert solve(problem, budget_ms=10.0, hint=hint, steps=["local_search"], pool=unused).has_decision
    result = solve(problem, deterministic=10.0, hint=hint, steps=["cpsat_full"], pool=unused)
    assert result.status is Status.OPTIMAL


def test_a_worker_answers_what_the_component_does():
    problem, hint = contested()
    with WorkerPool(1, warm_up="hexsolve.components:warm_up") as pool:
        assert pool.wait(300.0)
        result = solve(problem, budget_ms=20_000.0, hint=hint, steps=["cpsat_full"], pool=pool)
    assert (result.status, result.stop_reason.kind) == (Status.OPTIMAL, StopKind.PROVED)
    assert result.objective == solve(problem, deterministic=10.0, hint=hint, steps=STEPS).objective
    assert [name for name, _, _ in result.work] == ["local_search", "cpsat_full"]


class Redirected:
    """A real pool whose workers run something else than what they are asked for."""

    def __init__(self, pool, function, *arguments, wait_s=0.0):
        self.pool, self.instead, self.wait_s = pool, (function, *arguments), wait_s

    def submit(self, function, *arguments):
        job = self.pool.submit(*self.instead)
        job.poll(self.wait_s)  # so that an answer is there however busy the machine is
        return job


@pytest.mark.parametrize(
    ("job", "why"),
    [
        (("worker_jobs:sleep", 60), "late"),
        (("worker_jobs:busy", 60), "late"),
        (("worker_jobs:hold_the_interpreter_lock", 60), "late"),
        (("worker_jobs:exit_at_once",), "ended during"),
        (("worker_jobs:kill_self",), "ended during"),
        (("worker_jobs:fail",), "cannot be"),
        (("worker_jobs:unpicklable",), ""),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else None,
)
def test_real_workers_that_hang_or_die_leave_the_hint(job, why):
    problem, hint = contested()
    with WorkerPool(1) as pool:
        assert pool.wait(60.0)
        redirected = Redirected(pool, *job, wait_s=0.0 if why == "late" else 60.0)
        result = solve(problem, budget_ms=300.0, hint=hint, steps=["cpsat_full"], pool=redirected)
        if why == "late":  # and not after the minute that the worker takes
            assert result.wall_ms < 20_000.0
    assert result.objective <= cost(problem, hint)
    ((_, _, told),) = [row for row in result.work if row[0] == "cpsat_full"]
    assert why in told
    assert told


def test_importing_loads_no_solver():
    code = """
import sys
sys.path[:0] = {path!r}
import hexsolve.solve
print([name for name in ("ortools", "pulp", "highspy") if name in sys.modules])
"""
    command = [sys.executable, "-c", code.format(path=[p for p in sys.path if p])]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "[]"
