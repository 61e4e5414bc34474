"""Solves an offline problem within a time limit and says what is proved. Knows status and bounds; trusts no solver.

Every decision is judged by the referee, at the referee's value; bounds are exact fractions.
"""

import time
from dataclasses import dataclass
from fractions import Fraction
from math import floor, inf, isfinite
from typing import Literal

import pulp
from ortools.sat.python import cp_model

from hexsolve_models.offline import cpsat, milp, referee
from hexsolve_models.offline.cpsat_variables import CpsatModel
from hexsolve_models.offline.goal import Goal
from hexsolve_models.offline.listing import first_decision
from hexsolve_models.offline.problem import OfflineDecision, OfflineProblem
from hexsolve_models.offline.referee import violations
from hexsolve_models.offline.windows import deadlines, paths

# Searching for a decision at the bound, and raising the bound where there is none, proves mk04 in 0.5 s, where the
# default search had not in 20 s (2026-11-21, 2 workers). One worker does that, the others improve what is known (LNS);
# what is open then is given to two searches and less improvement.
_PHASES = ((0.4, ("objective_lb_search",)), (1.0, ("objective_lb_search", "quick_restart_no_lp")))

Progress = tuple[float, Fraction, Fraction]
"""(seconds since the start, objective, bound)."""


@dataclass(frozen=True)
class OutcomeTruth:
    """What is known of an instance after a solve.

    Attributes
    ----------
    status : OPTIMAL: bound == objective. FEASIBLE: the time was up, or the numbers are too fine to close the gap.
    objective : value of `decision` by the referee.
    bound : no decision is worth less.
    progress : (seconds, objective, bound) after every improvement of either.
    """

    status: Literal["OPTIMAL", "FEASIBLE"]
    objective: Fraction
    bound: Fraction
    decision: OfflineDecision
    progress: tuple[Progress, ...]

    @property
    def gap(self) -> float:
        """(objective - bound) / objective; 0 where both are 0."""
        return float((self.objective - self.bound) / self.objective) if self.objective else 0.0


class _Record:
    """The best decision and bound so far, with their history."""

    def __init__(self, problem: OfflineProblem, goal: Goal, decision: OfflineDecision) -> None:
        wrong = violations(problem, decision)
        if wrong:
            raise ValueError(f"incumbent: expected an allowed decision, got {wrong[0]}")
        self._problem, self._goal = problem, goal
        self._start = time.perf_counter()
        self.decision, self.objective, self.bound = decision, goal.value(problem, decision), Fraction(0)
        self.progress: list[Progress] = []
        self.is_polishing = False
        self._note()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._start

    @property
    def is_open(self) -> bool:
        return self.bound < self.objective

    def propose(self, decision: OfflineDecision) -> None:
        """Take a decision if it is better."""
        value = self._goal.value(self._problem, decision)
        if value < self.objective:
            wrong = violations(self._problem, decision)
            if wrong:
                raise AssertionError(f"the model allows what the referee does not: {wrong[0]}")
            self.decision, self.objective = decision, value
            self._note()

    def raise_bound(self, bound: Fraction) -> None:
        """Take a bound if it is better; none says more than a known decision."""
        bound = min(bound, self.objective)
        if bound > self.bound:
            self.bound = bound
            self._note()

    def outcome(self) -> OutcomeTruth:
        status: Literal["OPTIMAL", "FEASIBLE"] = "FEASIBLE" if self.is_open else "OPTIMAL"
        return OutcomeTruth(status, self.objective, self.bound, self.decision, tuple(self.progress))

    def _note(self) -> None:
        self.progress.append((self.seconds, self.objective, self.bound))


class _Watch(cp_model.CpSolverSolutionCallback):  # type: ignore[misc]  # ortools has no types
    """Hands solutions to the record as they come."""

    def __init__(self, model: CpsatModel, record: _Record) -> None:
        super().__init__()
        self._model, self._record = model, record
        self.error: Exception | None = None

    def on_solution_callback(self) -> None:
        try:
            self._record.propose(self._model.decision(self))
        except Exception as error:  # an exception here would end the process
            self.error = error
            self.stop_search()


def solve(
    problem: OfflineProblem,
    goal: Goal,
    *,
    limit_s: float,
    workers: int = 1,
    seed: int = 0,
    incumbent: OfflineDecision | None = None,
    method: Literal["cpsat", "milp"] = "cpsat",
) -> OutcomeTruth:
    """The best decision found within `limit_s` (> 0) seconds of wall time, and the best bound.

    Parameters
    ----------
    method : CP-SAT, or HiGHS for tiny instances.
    workers : threads, >= 1. seed : of the solver.
    incumbent : an allowed decision to start from; the best of a few lists otherwise.

    Raises
    ------
    ValueError
        If a call cannot be placed at all, the incumbent is not allowed or a limit is out of range.
    """
    if not (0 < limit_s < inf and workers >= 1):
        raise ValueError(f"limit_s = {limit_s}, workers = {workers}: expected > 0 and finite, and >= 1")
    record = _Record(problem, goal, incumbent or first_decision(problem, goal, seed=seed))
    record.raise_bound(goal.of(_alone(problem)))
    if method == "milp":
        _run_milp(
            milp.build(problem, goal, _deadlines(problem, goal, record.objective, strictly=False)), record, limit_s
        )
        return record.outcome()
    phase = 0
    while record.is_open and record.seconds < limit_s:
        end_by = _deadlines(problem, goal, record.objective, strictly=record.is_polishing)
        model = cpsat.build(problem, goal, end_by)
        if not record.is_polishing:
            model.hint(record.decision)
        share, subsolvers = _PHASES[min(phase, len(_PHASES) - 1)]
        status = _run(model, record, _Limits(share * limit_s - record.seconds, workers, seed, subsolvers))
        if status == "INFEASIBLE":
            record.raise_bound(record.objective)
        elif status == "OPTIMAL":
            if goal.kind != "req":
                break
            record.is_polishing = True
        else:
            phase += 1
    return record.outcome()


@dataclass(frozen=True)
class _Limits:
    seconds: float
    workers: int
    seed: int
    subsolvers: tuple[str, ...]


def _run(model: CpsatModel, record: _Record, limits: _Limits) -> str:
    """Solve once; the native status. Solutions and bounds go to the record."""
    solver, watch = cp_model.CpSolver(), _Watch(model, record)
    parameters = solver.parameters
    parameters.max_time_in_seconds = max(0.01, limits.seconds)
    parameters.num_workers, parameters.random_seed = limits.workers, limits.seed
    parameters.catch_sigint_signal = False
    if limits.workers > 1:
        parameters.subsolvers.extend(limits.subsolvers[: limits.workers])
    else:
        parameters.use_objective_lb_search = True
    if not record.is_polishing:
        solver.best_bound_callback = lambda native: record.raise_bound(model.bound(native))
    status: str = solver.solve(model.model, watch).name
    if watch.error is not None:
        raise watch.error
    if status == "MODEL_INVALID":
        raise AssertionError(f"CP-SAT: {model.model.validate()}")
    if status in ("OPTIMAL", "FEASIBLE"):
        record.raise_bound(model.bound(solver.best_objective_bound))
    return status


def _run_milp(model: milp.MilpModel, record: _Record, limit_s: float) -> None:
    """HiGHS once. Without presolve: with it 1.12 reports wrong optima (ERGO-Code/HiGHS #2808, #3043, #3073)."""
    highs = pulp.HiGHS(msg=False, timeLimit=limit_s, threads=1, gapRel=0.0, gapAbs=0.0, presolve="off")
    model.model.solve(highs)
    native = model.model.solverModel
    if native.getInfo().primal_solution_status == 2:  # feasible
        record.propose(model.decision())
    if isfinite(bound := float(native.getInfo().mip_dual_bound)):
        record.raise_bound(model.bound(bound))


def _alone(problem: OfflineProblem) -> list[Fraction]:
    """[W] the stretch of every workflow alone: nothing is earlier."""
    return referee.stretches(problem, paths(problem).workflow_finish(problem).tolist())


def _deadlines(problem: OfflineProblem, goal: Goal, objective: Fraction, *, strictly: bool) -> list[int]:
    """[W] F_w of every kept workflow of a decision worth at most `objective`, or less than that if `strictly`."""
    if goal.kind == "late_count":
        return deadlines(problem, goal.level)
    if goal.kind == "req":
        last = deadlines(problem, objective)
        if not strictly:
            return last
        ratios = referee.stretches(problem, last)
        return [tick - (ratio == objective) for tick, ratio in zip(last, ratios, strict=True)]
    alone = paths(problem).workflow_finish(problem).tolist()
    room = problem.num_workflows * objective - sum(_alone(problem), Fraction(0))
    return [tick + floor(room * int(problem.reference_ticks[w])) for w, tick in enumerate(alone)]
