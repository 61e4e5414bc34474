"""What is compared on one epoch problem: the portfolio, every component alone, greedy, and CP-SAT as it comes.

Knows how each is asked; knows nothing of where problems come from or how figures are put together.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from hexsolve import components
from hexsolve.solve import solve
from hexsolve.workers import WorkerPool
from hexsolve_models import Decision, Problem, cost, violations
from hexsolve_models.formulation import NumberRangeError

PORTFOLIO, GREEDY, PLAIN = "portfolio", "greedy", "plain CP-SAT"
PLAIN_BUDGET_MS, PLAIN_WORKERS = 2000.0, 2


@dataclass(frozen=True, slots=True)
class Answer:
    """What a method made of a problem.

    Attributes
    ----------
    cost : by the referee; inf without a decision.
    bound : no decision costs less, as far as the method knows; -inf if it knows nothing.
    status : name of a `hexsolve.solve.Status`, or the exception.
    wall_ms, build_ms : of the whole call, and of building models.
    winner : what found the decision.
    trace : (ms, component, cost, bound) of every improvement.
    work : done by all components, in units of their own.
    """

    cost: float
    bound: float
    status: str
    wall_ms: float
    build_ms: float = 0.0
    winner: str = ""
    trace: tuple[tuple[float, str, float, float], ...] = ()
    work: float = 0.0


Method = Callable[[Problem, Decision, float], Answer]
"""(problem, greedy decision, budget in ms) -> answer."""


def methods(pool: WorkerPool | None) -> dict[str, Method]:
    """By name: the portfolio, its native solvers in `pool` as in service, then each component alone in this thread."""
    alone = {name: _asked((name,), None) for name in components.names()}
    return {PORTFOLIO: _asked(None, pool), **alone}


def _asked(steps: tuple[str, ...] | None, pool: WorkerPool | None) -> Method:
    def method(problem: Problem, hint: Decision, budget_ms: float) -> Answer:
        started = time.perf_counter()
        try:
            result = solve(problem, budget_ms=budget_ms, hint=hint, steps=steps, pool=pool)
        except Exception as error:  # one row of a run of hours
            wall_ms = 1e3 * (time.perf_counter() - started)
            return Answer(inf, -inf, f"{type(error).__name__}: {error}", wall_ms)
        wall_ms = 1e3 * (time.perf_counter() - started)
        trace = tuple((point.elapsed_ms, point.component, point.cost, point.bound) for point in result.trace)
        work = sum(amount for _, amount, _ in result.work)
        found = result.objective, result.bound, result.status.name
        return Answer(*found, wall_ms, result.build_ms, result.winner, trace, work)

    return method


def plain_cpsat(problem: Problem) -> Answer:
    """The full model without an incumbent, a hint or parameters of ours: two workers, `PLAIN_BUDGET_MS` to search."""
    from ortools.sat.python import cp_model

    from hexsolve_models.formulations import cpsat_full

    started = time.perf_counter()
    try:
        formulation = cpsat_full.build(problem)
    except NumberRangeError:  # costs without the window that an incumbent gives can leave the exact range
        return Answer(inf, -inf, "NO_SOLUTION", 1e3 * (time.perf_counter() - started), winner=PLAIN)
    build_ms = 1e3 * (time.perf_counter() - started)
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = PLAIN_BUDGET_MS / 1e3
    solver.parameters.num_workers = PLAIN_WORKERS
    solver.parameters.catch_sigint_signal = False
    status = solver.solve(formulation.model).name
    price, known = inf, "NO_SOLUTION"
    if status in ("OPTIMAL", "FEASIBLE"):
        decision = formulation.decode(list(solver.response_proto.solution))
        if not violations(problem, decision):
            price, known = float(cost(problem, decision)), status
    return Answer(price, solver.best_objective_bound, known, 1e3 * (time.perf_counter() - started), build_ms, PLAIN)
