"""Problem in, best decision within a budget out. Knows budgets, gates and outcomes; knows no clusters and no snapshots.

Every decision that leaves here has passed the referee. The solver is asked only when the bound leaves room to improve
and the budget leaves time to do so; whatever it answers, a feasible hint is never lost.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from math import inf
from time import perf_counter

import numpy as np

from hexsolve.backends.outcome import Limits, ModelError, NativeOutcome
from hexsolve.errors import InputError
from hexsolve_models import Decision, Problem, cost, violations
from hexsolve_models.bounds import lower_bound
from hexsolve_models.formulation import NumberRangeError

__all__ = ["GATES", "Gate", "ModelError", "Result", "Status", "StopKind", "StopReason", "solve", "warm_up"]


class Status(Enum):
    """What is known (DESIGN: outcome table). Decisions exist for OPTIMAL and FEASIBLE only."""

    OPTIMAL = "optimal"
    FEASIBLE = "feasible"
    NO_SOLUTION = "no solution"
    INFEASIBLE = "infeasible"


class StopKind(Enum):
    """Why `solve` stopped."""

    PROVED = "the solver proved its decision optimal"
    CERTIFIED = "the hint meets the bound, no solver needed"
    LIMIT = "the solver reached its limit"
    NOT_CALLED = "the solver was not called"
    BLOCKED = "some calls fit no replica"
    REJECTED = "the solver's answer failed a check"


@dataclass(frozen=True, slots=True)
class StopReason:
    """Why `solve` stopped, and the particulars."""

    kind: StopKind
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.kind.value}: {self.detail}" if self.detail else self.kind.value


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of one `solve`.

    Attributes
    ----------
    objective : referee cost of the decision; inf without one.
    bound : no decision costs less; inf if there is none at all.
    wall_ms, build_ms : time of the whole call, and of building the model.
    deterministic_time : solver work in its own units; 0.0 if it was not called.
    """

    status: Status
    objective: float
    bound: float
    wall_ms: float
    build_ms: float
    deterministic_time: float
    stop_reason: StopReason
    _decision: Decision | None = None

    @property
    def has_decision(self) -> bool:
        return self._decision is not None

    @property
    def decision(self) -> Decision:
        """The decision. Raises `LookupError` if there is none."""
        if self._decision is None:
            raise LookupError(f"no decision: {self.status.value} ({self.stop_reason.kind.value})")
        return self._decision


@dataclass(frozen=True, slots=True)
class Gate:
    """Up to `max_literals` replica choices (x and y literals), the solver is worth a start from `min_budget_ms` on."""

    max_literals: int
    min_budget_ms: float


# Measured 2026-11-21 by benchmarks/gate_calibration.py on 2 shared cores, 20 synthetic epochs per size: the first
# budget of 5, 10, 20, 50, 100, 200, 500 ms at which no call of `solve` was late and a fifth improved on their hint.
GATES = (
    Gate(64, 10),  # 4 calls on 4 + 4 replicas: 75 % improved, 95 % proved optimal; 8 calls: 60 %, all at 20 ms
    Gate(256, 20),  # 8 calls on 8 + 8: 80 %; 16 on 8 + 8: 30 %, 95 % at 50 ms; but 16 on 4 + 4: none, 45 % at 50 ms
    Gate(512, 50),  # 32 calls on 8 + 8: 20 %, 80 % at 200 ms
    Gate(1024, 500),  # 64 calls on 8 + 8: 50 %, 15 % at 200 ms
    # Not measured, by extrapolation: 128 calls on 8 + 8 improved in 5 % at 500 ms, and building took 60-70 ms.
    Gate(2048, 1000),
    Gate(8192, 4000),
)

# CP-SAT's five answers, all of them. INFEASIBLE is never believed: `Problem.blocked_calls` decides feasibility exactly.
NATIVE_STATUS = {
    "OPTIMAL": Status.OPTIMAL,
    "FEASIBLE": Status.FEASIBLE,
    "UNKNOWN": Status.NO_SOLUTION,
    "INFEASIBLE": Status.INFEASIBLE,
    "MODEL_INVALID": None,  # raised as ModelError by the back-end
}

_RESERVE_SHARE, _RESERVE_MAX_MS, _RESERVE_MS = 0.25, 50.0, 3.0  # CP-SAT overshoots by 2-17 ms (gate_calibration)
_MIN_LIMIT_MS = 1.0
_SMALL_LITERALS = 128


def solve(
    problem: Problem,
    *,
    budget_ms: float | None = None,
    deterministic: float | None = None,
    seed: int = 0,
    workers: int = 1,
    hint: Decision | None = None,
    candidates: int | None = None,
    gates: Sequence[Gate] | None = GATES,
) -> Result:
    """Find the cheapest decision.

    Parameters
    ----------
    budget_ms
        Wall-clock budget of this call, everything included, >= 0. None: no wall limit.
    deterministic
        Solver limit in deterministic units, >= 0: same result on every run. None: no such limit.
    hint
        A decision to start from; dropped if the referee finds violations. The result is never dearer than it.
    candidates
        Replicas per call and pool the solver may choose from, >= 1; None: all. With fewer it starts sooner and proves
        nothing about the problem.
    gates
        From which budget on each size is worth a solver start; only a wall-clock budget is gated. None: always start.

    Raises
    ------
    InputError
        If a limit, the seed or the number of workers is out of range.
    ModelError
        If the solver finds the model invalid.
    """
    limits = _checked(Limits(budget_ms, deterministic, seed, workers))
    if candidates is not None and candidates < 1:
        raise InputError(f"candidates = {candidates}: expected >= 1, or None for all")
    run = _Run(problem, perf_counter(), budget_ms)
    blocked = problem.blocked_calls()
    if blocked:
        return run.without(Status.INFEASIBLE, inf, StopReason(StopKind.BLOCKED, f"calls {list(blocked)}"))
    if problem.num_calls == 0:
        hint = Decision(*np.zeros((4, 0), dtype=np.int64))
    if hint is not None and not violations(problem, hint):
        run.keep(hint)
    run.bound = lower_bound(problem)
    if run.price <= run.bound:
        return run.result(StopReason(StopKind.CERTIFIED))
    if budget_ms is not None and gates is not None:
        gate = gate_of(problem, gates)
        if budget_ms < gate.min_budget_ms:
            detail = f"{_num_literals(problem)} literals need {gate.min_budget_ms:g} ms, budget {budget_ms:g} ms"
            return run.result(StopReason(StopKind.NOT_CALLED, detail))
    return _ask_solver(run, limits, candidates)


def gate_of(problem: Problem, gates: Sequence[Gate] = GATES) -> Gate:
    """The first gate wide enough for the problem, or one that never opens."""
    literals = _num_literals(problem)
    return next((gate for gate in gates if literals <= gate.max_literals), Gate(literals, inf))


def _num_literals(problem: Problem) -> int:
    return int(problem.prefill_allowed.sum() + problem.decode_allowed.sum())


def warm_up() -> None:
    """Import and start everything `solve` needs, so that the first budget is not spent on it (about 0.7 s)."""
    import scipy.optimize  # noqa: F401

    from hexsolve.backends import cpsat as backend

    backend.warm_up()


class _Run:
    """Book-keeping of one `solve`: the best checked decision, the best bound, the clock."""

    def __init__(self, problem: Problem, start_s: float, budget_ms: float | None) -> None:
        self.problem, self.start_s, self.budget_ms = problem, start_s, budget_ms
        self.best: Decision | None = None
        self.price: float = inf
        self.bound: float = -inf
        self.build_ms = self.deterministic_time = 0.0

    def keep(self, decision: Decision) -> None:
        price = cost(self.problem, decision)
        if price < self.price:
            self.best, self.price = decision, price

    def elapsed_ms(self) -> float:
        return (perf_counter() - self.start_s) * 1000

    def solver_limit_ms(self) -> float | None:
        if self.budget_ms is None:
            return None
        left_ms = self.budget_ms - self.elapsed_ms()
        return left_ms - min(_RESERVE_SHARE * left_ms, _RESERVE_MAX_MS) - _RESERVE_MS

    def result(self, reason: StopReason) -> Result:
        if self.best is None:
            return self.without(Status.NO_SOLUTION, self.bound, reason)
        status = Status.OPTIMAL if self.price <= self.bound else Status.FEASIBLE
        times = self.elapsed_ms(), self.build_ms, self.deterministic_time
        return Result(status, self.price, self.bound, *times, reason, self.best)

    def without(self, status: Status, bound: float, reason: StopReason) -> Result:
        return Result(status, inf, bound, self.elapsed_ms(), self.build_ms, self.deterministic_time, reason)


def _ask_solver(run: _Run, limits: Limits, candidates: int | None) -> Result:
    from hexsolve.backends import cpsat as backend
    from hexsolve_models.formulations import cpsat_full as cpsat

    before_ms = run.elapsed_ms()
    try:
        formulation = cpsat.build(run.problem, run.best, candidates=candidates)
    except NumberRangeError as error:
        return run.result(StopReason(StopKind.NOT_CALLED, str(error)))
    start = None if run.best is None else formulation.encode(run.best)
    run.build_ms = run.elapsed_ms() - before_ms
    limit_ms = run.solver_limit_ms()
    if limit_ms is not None and limit_ms < _MIN_LIMIT_MS:
        detail = f"{limit_ms:.1f} ms would be left after building for {run.build_ms:.1f} ms"
        return run.result(StopReason(StopKind.NOT_CALLED, detail))
    outcome = backend.run(
        formulation.model,
        start,
        Limits(limit_ms, limits.deterministic, limits.seed, limits.workers),
        has_twins=formulation.has_twins,
        is_small=_num_literals(run.problem) <= _SMALL_LITERALS,
    )
    run.deterministic_time = outcome.deterministic_time
    proposal = None if outcome.values is None else formulation.decode(outcome.values)
    return _judge(run, outcome, proposal, formulation.is_exact)


def _judge(run: _Run, outcome: NativeOutcome, proposal: Decision | None, is_exact: bool) -> Result:
    """Believe only what the referee and the other bound do not contradict."""
    wrong = _contradiction(run, outcome, proposal)
    if wrong:
        return run.result(StopReason(StopKind.REJECTED, wrong))
    if proposal is not None:
        run.keep(proposal)
    if not is_exact:  # a bound on a part of the choices bounds nothing
        return run.result(StopReason(StopKind.LIMIT, f"{outcome.status} among the candidate replicas"))
    run.bound = max(run.bound, outcome.bound)
    proved = NATIVE_STATUS[outcome.status] is Status.OPTIMAL
    return run.result(StopReason(StopKind.PROVED if proved else StopKind.LIMIT, outcome.status))


def _contradiction(run: _Run, outcome: NativeOutcome, proposal: Decision | None) -> str:
    status = NATIVE_STATUS[outcome.status]
    if status is Status.INFEASIBLE:
        return "the solver says infeasible, but every call fits a replica"
    price: float = inf
    if proposal is not None:
        broken = violations(run.problem, proposal)
        if broken:
            return f"{len(broken)} violations, the first: {broken[0]}"
        price = cost(run.problem, proposal)
        # A proved optimum has no slack in its cost variables; an incumbent may.
        if price > outcome.objective or (status is Status.OPTIMAL and price < outcome.objective):
            return f"the solver claims cost {outcome.objective:.0f}, the referee finds {price}"
    best = min(price, run.price)
    if best < run.bound:
        return f"cost {best} is below the bound {run.bound}"
    if outcome.bound > best:
        return f"the solver claims bound {outcome.bound:.0f}, a decision costs {best}"
    return ""


def _checked(limits: Limits) -> Limits:
    for name, value in (("budget_ms", limits.wall_ms), ("deterministic", limits.deterministic)):
        if value is not None and not value >= 0:
            raise InputError(f"{name} = {value!r}: expected >= 0, or None for no such limit")
    if limits.seed < 0 or limits.workers < 1:
        raise InputError(f"seed = {limits.seed}, workers = {limits.workers}: expected seed >= 0, workers >= 1")
    return limits
